"""Faster code for the same model: torch.compile, and liger-kernel's layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from .schema.compile import Compile


def compile_model(model: nn.Module, node: Compile) -> None:
    """Apply the section to the model in place, before the engine wraps it; parameters keep their names."""
    if node.use_liger_kernel:
        _use_liger_kernel(model, node.liger_kernel_config)
    if node.is_enabled():
        options: dict[str, Any] = {"backend": node.torch_compile_backend or "inductor"}
        if node.torch_compile_mode is not None:
            options["mode"] = node.torch_compile_mode
        model.compile(**options)


def _use_liger_kernel(model: nn.Module, kernels: dict[str, bool]) -> None:
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN as KNOWN

    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in KNOWN:
        raise ValueError(
            f"compile.use_liger_kernel=true: liger-kernel does not know {type(model).__name__}, "
            f"only transformers models of type {', '.join(sorted(KNOWN))}"
        )
    _apply_liger_kernel_to_instance(model=model, **kernels)
