"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..schema import data as schema
from .tensors import Tensors


class Digits(Dataset[tuple[Tensor, ...]]):
    """Pairs of 64 grey values in [0, 1] (float32) and a digit (int64), split after a fixed shuffle."""

    draws_random = False

    def __init__(self, node: schema.Digits) -> None:
        from sklearn.datasets import load_digits

        images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        border = len(order) * 8 // 10
        try:
            rows = {"train": order[:border], "eval": order[border:]}[node.split]
        except KeyError:
            raise ValueError(f"split={node.split}: allowed: train, eval") from None
        self.pairs = Tensors((images / 16).float()[rows], labels.long()[rows])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.pairs[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """A finished batch."""
        return self.pairs.__getitems__(indices)
