"""Batches to the device."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import torch
from torch import Tensor

from ..tree import map_leaves


def to_device(batch: Any, device: torch.device) -> Any:
    """``batch`` with everything in it on ``device``: tensors at any depth, and objects with a ``to(device)`` method of
    their own (a PackedSequence, a user's batch class). On a CPU the batch itself.
    """
    if device.type == "cpu":
        return batch

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True)
        return leaf.to(device) if _moves_itself(leaf) else leaf

    return map_leaves(move, batch, is_leaf=_moves_itself)


def _moves_itself(value: Any) -> bool:
    # BatchEncoding.to would change the dataset's own batch in place, and leaves tensors in its lists behind
    return not isinstance(value, dict | UserDict) and callable(getattr(type(value), "to", None))
