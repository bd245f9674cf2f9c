"""`launch`: how many processes run the training."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import number


@dataclass(kw_only=True, slots=True)
class Launch:
    """Local ranks. Under torchrun these fields stay at their defaults: torchrun decides."""

    nproc_per_node: int | None = number(None, minimum=1)
    """Ranks on this machine (torchrun: --nproc-per-node). None: one per visible GPU, 1 without."""
