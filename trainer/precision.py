"""What a precision means in torch: autocast around the model's forward, the gradient scaler, TF32 products."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .schema.precision import Precision


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The 16-bit format of the computation, None for fp32 and tf32."""
    if precision.bf16:
        return torch.bfloat16
    return torch.float16 if precision.fp16 else None


def autocast_bytes(precision: Precision) -> int:
    """Bytes of an element in the computation's format."""
    return (autocast_dtype(precision) or torch.float32).itemsize


def make_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler | None:
    """fp16's loss scaler; the other formats have fp32's range and need none."""
    return torch.amp.GradScaler(device.type) if precision.fp16 else None


def set_tf32(precision: Precision, device: torch.device) -> None:
    """Set the format of fp32 matrix products; ``tf32: None`` leaves torch's setting.

    Raises ValueError where TF32 does not exist.
    """
    if precision.tf32 and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        raise ValueError(
            f"precision.tf32=true needs an Ampere or later NVIDIA GPU, this is {name}; fix: precision=fp32"
        )
    if precision.tf32 is not None:
        torch.backends.fp32_precision = "tf32" if precision.tf32 else "ieee"  # type: ignore[attr-defined]


def autocast_forward(module: nn.Module, precision: Precision, device: torch.device) -> None:
    """Make ``module(...)`` compute in 16 bits and answer in fp32, in place. fp32 leaves the module as it is.

    The model's own loss is computed inside, under autocast, which takes losses and softmax in fp32.
    """
    dtype = autocast_dtype(precision)
    if dtype is None:
        return
    forward = module.forward
    device_type = device.type

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device_type, dtype=dtype):
            output = forward(*args, **kwargs)
        return to_fp32(output)

    module.forward = wrapped


def to_fp32(value: Any) -> Any:
    """``value`` with its 16-bit tensors in fp32, through mappings, lists and (named) tuples."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, Mapping):
        return type(value)({k: to_fp32(v) for k, v in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_fp32, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(to_fp32, value))
    return value


@contextmanager
def full_eval(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside: floating-point weights, buffers and inputs in the evaluation's own format, answers in fp32. Afterwards
    the weights are the very tensors they were."""
    if not (precision.bf16_full_eval or precision.fp16_full_eval):
        yield
        return
    dtype = torch.bfloat16 if precision.bf16_full_eval else torch.float16
    # Other tensors in the modules' places: to change a parameter's own data would reset its gradient accumulator, on
    # which DDP's hooks are.
    slots: list[dict[str, Any]] = [slot for module in model.modules() for slot in (module._parameters, module._buffers)]
    kept = [dict(slot) for slot in slots]
    cast: dict[torch.Tensor, torch.Tensor] = {
        t: _in_format(t, dtype) for slot in kept for t in slot.values() if t is not None and t.is_floating_point()
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
        for slot, tensors in zip(slots, kept, strict=True):
            slot.update(tensors)
        for hook in hooks:
            hook.remove()


def _in_format(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    other = tensor.detach().to(dtype)
    return nn.Parameter(other, requires_grad=False) if isinstance(tensor, nn.Parameter) else other


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with its floating-point tensors in a format, through dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {k: _cast(v, dtype) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cast(v, dtype) for v in value)
    return value
