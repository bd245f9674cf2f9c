"""`memory`: what is given up to use less of a device's memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .fields import number


@dataclass(kw_only=True, slots=True)
class Memory:
    """Trades of time for memory; none of them changes a number."""

    activation_checkpointing: bool = False
    """Compute each layer's activations again in backward instead of keeping them (HF: activation_checkpointing, before
    5.23 gradient_checkpointing). Layers are a transformers model's own, else the items of nn.ModuleLists."""
    activation_checkpointing_kwargs: dict[str, Any] = field(default_factory=dict)
    """`every_n_layers` (1) checkpoints only each n-th layer, `offload` (false) keeps the layers' inputs in host memory;
    the rest goes to torch.utils.checkpoint.checkpoint (HF: activation_checkpointing_kwargs). `use_reentrant` is false
    unless set (with other keys set, HF leaves it to torch, which takes true)."""
    torch_empty_cache_steps: int | None = number(None, minimum=1)
    """Hand the allocator's unused blocks back to the GPU after every so many steps; a CPU has no such cache (HF:
    torch_empty_cache_steps, which does it after each micro-batch's forward of such a step)."""
    use_cache: bool = False
    """The model keeps keys and values for generation: sets `model.config.use_cache` (HF: use_cache)."""
