"""`compile`: faster code for the same model."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class Compile:
    """torch.compile and kernels that replace a model's own."""

    torch_compile: bool | None = None
    """Compile the model with torch.compile (HF: torch_compile). None: where torch_compile_backend or torch_compile_mode
    is set, as in HF. TF32 is precision.tf32's business alone (HF turns it on here)."""
    torch_compile_backend: str | None = None
    """A backend of torch.compile, one that an installed package offers included; None: inductor (HF:
    torch_compile_backend)."""
    torch_compile_mode: str | None = None
    """inductor's `default`, `reduce-overhead`, `max-autotune` or `max-autotune-no-cudagraphs` (HF:
    torch_compile_mode)."""
    use_liger_kernel: bool = False
    """Replace layers of a transformers model by the package liger-kernel's (HF: use_liger_kernel). A model that it does
    not know is an error (HF: a warning)."""
    liger_kernel_config: dict[str, bool] = field(default_factory=dict)
    """Which kernels: rope, swiglu, cross_entropy, fused_linear_cross_entropy, rms_norm (HF: liger_kernel_config)."""

    def is_enabled(self) -> bool:
        """Whether the model is to be compiled."""
        given = self.torch_compile_backend is not None or self.torch_compile_mode is not None
        return given if self.torch_compile is None else self.torch_compile
