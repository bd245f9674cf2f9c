"""What a precision means in torch: autocast around the model's forward, the gradient scaler, TF32 products."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .schema.precision import Precision
from .tree import map_tensors

Undo = Callable[[], None]


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The 16-bit format of the computation, None for fp32 and tf32."""
    if precision.bf16:
        return torch.bfloat16
    return torch.float16 if precision.fp16 else None


def autocast_bytes(precision: Precision) -> int:
    """Bytes of an element in the computation's format."""
    return (autocast_dtype(precision) or torch.float32).itemsize


def make_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler | None:
    """fp16's loss scaler; None for the other formats, whose range is fp32's."""
    return torch.amp.GradScaler(device.type) if precision.fp16 else None


def set_tf32(precision: Precision, device: torch.device) -> Undo:
    """Set the format of fp32 matrix products; ``tf32: None`` leaves torch's setting. Returns what restores it.

    Raises:
        ValueError: the device has no TF32.
    """
    if precision.tf32 and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise ValueError(
            f"precision.tf32=true needs an Ampere or later NVIDIA GPU, this is {name}; fix: precision=fp32"
        )
    before: str = torch.backends.fp32_precision  # type: ignore[attr-defined]

    def restore() -> None:
        torch.backends.fp32_precision = before  # type: ignore[attr-defined]

    if precision.tf32 is None:
        return _nothing
    torch.backends.fp32_precision = "tf32" if precision.tf32 else "ieee"  # type: ignore[attr-defined]
    return restore


def autocast_forward(module: nn.Module, precision: Precision, device: torch.device) -> Undo:
    """Make ``module(...)`` compute in 16 bits and return fp32, in place; fp32 leaves the module as it is. Returns what
    restores the module.

    A loss that the model computes itself is inside, under autocast, which computes losses and softmax in fp32.
    """
    dtype = autocast_dtype(precision)
    if dtype is None:
        return _nothing
    forward, replaced = module.forward, vars(module).get("forward")
    device_type = device.type

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=dtype):
            output = forward(*args, **kwargs)
        return to_fp32(output)

    def restore() -> None:
        del module.forward
        if replaced is not None:
            module.forward = replaced

    module.forward = wrapped
    return restore


def _nothing() -> None:
    pass


def to_fp32(value: Any) -> Any:
    """``value`` with its 16-bit tensors in fp32, at any depth."""
    return map_tensors(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, value)


@contextmanager
def full_eval(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside, floating-point weights, buffers and inputs are in the evaluation's own format and outputs in fp32.
    Afterwards the weights are the same tensor objects as before."""
    if not (precision.bf16_full_eval or precision.fp16_full_eval):
        yield
        return
    dtype = torch.bfloat16 if precision.bf16_full_eval else torch.float16
    # Other tensors take the parameters' places: assigning to a parameter's .data would reset its gradient accumulator,
    # which holds DDP's hooks.
    slots: list[dict[str, Any]] = [slot for module in model.modules() for slot in (module._parameters, module._buffers)]
    originals = [dict(slot) for slot in slots]
    cast: dict[torch.Tensor, torch.Tensor] = {
        t: _in_format(t, dtype) for slot in originals for t in slot.values() if t is not None and t.is_floating_point()
    }
    hooks = [
        model.register_forward_pre_hook(lambda _, args, kwargs: _cast((args, kwargs), dtype), with_kwargs=True),
        model.register_forward_hook(lambda _, args, output: to_fp32(output)),
    ]
    try:
        for slot in slots:
            slot.update({name: cast[t] for name, t in slot.items() if t in cast})
        yield
    finally:
        for slot, tensors in zip(slots, originals, strict=True):
            slot.update(tensors)
        for hook in hooks:
            hook.remove()


def _in_format(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    other = tensor.detach().to(dtype)
    return nn.Parameter(other, requires_grad=False) if isinstance(tensor, nn.Parameter) else other


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with its floating-point tensors in ``dtype``, at any depth."""
    return map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, value)
