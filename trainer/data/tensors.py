"""Tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Tensors(Dataset[tuple[Tensor, ...]]):
    """Tensors of equal length, as in torch's TensorDataset, but a batch is one indexing (15 us) instead of one per item
    (75 us)."""

    draws_random = False

    def __init__(self, *tensors: Tensor) -> None:
        if len({len(tensor) for tensor in tensors}) != 1:
            raise ValueError(f"the tensors must have equal lengths, not {[len(tensor) for tensor in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """A finished batch."""
        rows = torch.as_tensor(indices)
        return tuple(tensor[rows] for tensor in self.tensors)
