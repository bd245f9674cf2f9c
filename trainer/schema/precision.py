"""`precision`: the number formats of the computation; weights and optimizer states stay fp32."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import FREE


@dataclass(kw_only=True, slots=True)
class Precision:
    """Chosen by `precision=fp32|bf16|fp16|tf32`."""

    bf16: bool = False
    """bfloat16 autocast (HF: bf16)."""
    fp16: bool = False
    """float16 autocast with a gradient scaler (HF: fp16)."""
    bf16_full_eval: bool = field(default=False, metadata=FREE)
    """Evaluate with weights, buffers and float inputs cast to bfloat16; training goes on with the weights as they were
    (HF: bf16_full_eval, which leaves them cast and does not act on evaluations during training)."""
    fp16_full_eval: bool = field(default=False, metadata=FREE)
    """The same in float16 (HF: fp16_full_eval)."""
    tf32: bool | None = None
    """TensorFloat-32 matrix products on Ampere and later; None leaves torch's setting (HF: tf32)."""
