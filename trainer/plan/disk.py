"""What a run writes to disk."""

from __future__ import annotations

from ..parallel.footprint import Shapes


def checkpoint_bytes(shapes: Shapes) -> int:
    """One checkpoint: fp32 weights, buffers, optimizer state."""
    return shapes.parameter_bytes + shapes.buffers + shapes.optimizer_bytes
