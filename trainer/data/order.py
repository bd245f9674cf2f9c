"""The order of the training samples: a function of the seed and the epoch, the same at any world size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..rng import preserved_rng
from ..schema.data import Data, SamplingStrategy
from .fetch import seed_all
from .plan import epoch_order

MEGA_BATCHES = 50
"""Updates that are sorted together at most, as in Hugging Face's LengthGroupedSampler."""


class Order:
    """``order(epoch)``: the epoch's sample indices."""

    def __init__(self, dataset: Any, node: Data, update_size: int, seed: int) -> None:
        self.strategy, self.update_size, self.seed = node.train_sampling_strategy, update_size, seed
        self.num_samples = len(dataset)
        self.lengths: Tensor | None = None
        if self.strategy is SamplingStrategy.group_by_length:
            self.lengths = torch.tensor(lengths(dataset, node.length_column_name, seed))

    def __call__(self, epoch: int) -> Tensor:
        if self.strategy is SamplingStrategy.sequential:
            return torch.arange(self.num_samples)
        order = epoch_order(self.num_samples, self.seed, epoch)
        return order if self.lengths is None else grouped(order, self.lengths, self.update_size)


def grouped(order: Tensor, lengths: Tensor, update_size: int) -> Tensor:
    """``order`` with the samples of up to 50 updates at a time sorted from long to short, and the longest sample of all
    in the first update, where running out of memory costs least."""
    size = max(1, min(len(order) // (update_size * 4), MEGA_BATCHES)) * update_size
    parts = [part[lengths[part].argsort(descending=True, stable=True)] for part in torch.split(order, size)]
    longest = max(range(len(parts)), key=lambda i: int(lengths[parts[i][0]]))
    first, other = parts[0][0].clone(), parts[longest][0].clone()
    parts[0][0], parts[longest][0] = other, first
    return torch.cat(parts)


def lengths(dataset: Any, column: str, seed: int) -> list[int]:
    """Each sample's length: what stands in ``column``, else that of its `input_ids` or first sequence."""
    if column in (getattr(dataset, "column_names", None) or ()):
        return list(map(int, dataset[column]))
    result = []
    with preserved_rng():
        for index in range(len(dataset)):
            seed_all((seed, 0, index))  # an augmentation of the length is the same after a resume
            result.append(_length(dataset[index], column))
    return result


def _length(item: Any, column: str) -> int:
    if isinstance(item, Mapping):
        if column in item:
            return int(item[column])
        parts = [item["input_ids"]] if "input_ids" in item else list(item.values())
    else:
        parts = list(item) if isinstance(item, tuple | list) else [item]
    for part in parts:
        if hasattr(part, "__len__") and not isinstance(part, str) and getattr(part, "ndim", 1) > 0:
            return len(part)
    raise ValueError(
        f"data.train_sampling_strategy=group_by_length: an item has no {column!r} and no sequence; "
        "fix: data.length_column_name=KEY"
    )
