"""The order of the training samples: a function of the seed and the epoch, the same at any world size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..rng import preserved_rng
from ..schema.data import Data, SamplingStrategy
from .batches import BatchLayout, epoch_order
from .fetch import seed_all

MEGA_BATCHES = 50
"""Largest number of updates that are sorted together, as in Hugging Face's LengthGroupedSampler."""
QUADRATIC_COST = 0.001
"""Weight of attention's share of a sample's cost, as in Hugging Face's BatchRebalanceSampler."""
BY_LENGTH = (SamplingStrategy.group_by_length, SamplingStrategy.batch_rebalance)
"""Strategies that need the samples' lengths."""


class Order:
    """``order(epoch)`` gives the epoch's sample indices, ``order.micro_batches`` this rank's share of one update."""

    def __init__(self, dataset: Any, node: Data, update_size: int, seed: int) -> None:
        self.strategy, self.update_size, self.seed = node.train_sampling_strategy, update_size, seed
        self.num_samples = len(dataset)
        self.lengths: Tensor | None = None
        if self.strategy in BY_LENGTH:
            self.lengths = torch.tensor(lengths(dataset, node, seed))

    def __call__(self, epoch: int) -> Tensor:
        if self.strategy is SamplingStrategy.sequential:
            return torch.arange(self.num_samples)
        order = epoch_order(self.num_samples, self.seed, epoch)
        if self.strategy is SamplingStrategy.group_by_length:
            assert self.lengths is not None
            return grouped(order, self.lengths, self.update_size)
        return order

    def micro_batches(self, update: list[int], layout: BatchLayout) -> list[tuple[Sequence[int], float]]:
        """This rank's micro-batches of one update's samples, each with the divisor of its mean loss."""
        if self.strategy is not SamplingStrategy.batch_rebalance:
            return layout.micro_batches(update)
        assert self.lengths is not None
        sizes = self.lengths[update].tolist()
        groups = balanced(sizes, layout.num_micro_batches(len(update)) * layout.world_size)
        return layout.assign([[update[i] for i in group] for group in groups])


def grouped(order: Tensor, lengths: Tensor, update_size: int) -> Tensor:
    """``order`` with the samples of up to 50 updates at a time sorted from long to short, and the longest sample of all
    first, so that a run that does not fit in memory fails at its first update."""
    size = max(1, min(len(order) // (update_size * 4), MEGA_BATCHES)) * update_size
    parts = [part[lengths[part].argsort(descending=True, stable=True)] for part in torch.split(order, size)]
    longest = max(range(len(parts)), key=lambda i: int(lengths[parts[i][0]]))
    first, other = parts[0][0].clone(), parts[longest][0].clone()
    parts[0][0], parts[longest][0] = other, first
    return torch.cat(parts)


def balanced(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Indices of ``lengths`` in ``groups`` groups of similar length, from the costliest to the cheapest; none is empty
    unless there are fewer samples than groups.

    A group of n samples is padded to its longest, l, and costs ``n * (l + 0.001 * l ** 2)``. No other cut of the
    samples, sorted by length, makes the costliest group cheaper by more than 0.1 %. (Hugging Face's
    BatchRebalanceSampler approaches that by moving one sample at a time.)
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])

    def cost(count: int, longest: int) -> float:
        return count * (longest + QUADRATIC_COST * longest**2)

    def cost_of(group: list[int]) -> float:
        return cost(len(group), lengths[group[0]])

    def cut(most: float) -> list[list[int]]:
        """The fewest groups such that none costs more than ``most`` or holds a single sample."""
        parts = [order[:1]]
        for index in order[1:]:
            if cost(len(parts[-1]) + 1, lengths[parts[-1][0]]) <= most:
                parts[-1].append(index)
            else:
                parts.append([index])
        return parts

    low, high = 0.0, cost_of(order)
    while high - low > 0.001 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if len(cut(middle)) <= groups else (middle, high)
    parts = cut(high)
    while len(parts) < min(groups, len(order)):  # at no higher cost, so that every rank gets a group
        largest = max((part for part in parts if len(part) > 1), key=cost_of)
        at, half = parts.index(largest), (len(largest) + 1) // 2
        parts[at : at + 1] = [largest[:half], largest[half:]]
    return sorted(parts, key=cost_of, reverse=True)


def lengths(dataset: Any, node: Data, seed: int) -> list[int]:
    """Each sample's length: its value in data.length_column_name, else the length of its `input_ids` or first
    sequence."""
    column = node.length_column_name
    if column in (getattr(dataset, "column_names", None) or ()):
        return list(map(int, dataset[column]))
    result = []
    with preserved_rng():
        for index in range(len(dataset)):
            seed_all((seed, 0, index))  # a random length is the same after a resume
            result.append(_length(dataset[index], node))
    return result


def _length(item: Any, node: Data) -> int:
    column = node.length_column_name
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
        f"data.train_sampling_strategy={node.train_sampling_strategy}: an item has neither {column!r} nor a sequence; "
        "fix: data.length_column_name=KEY"
    )
