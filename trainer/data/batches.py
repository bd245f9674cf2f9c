"""Which samples make up which micro-batch: a function of the seed, the epoch and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
MicroBatch = tuple[Any, float]
"""A batch, and the number that its mean loss is divided by."""


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """Splits each update's samples into the micro-batches of all ranks.

    An update (a global batch) has ``micro_batch_size * accumulation * world_size`` samples, an epoch's last one what
    is left. Chunk j of an update becomes micro-batch ``j // world_size`` of rank ``j % world_size``, the order of
    accelerate's BatchSamplerShard. The updates are therefore the same at any world size and accumulation.
    """

    micro_batch_size: int
    accumulation: int
    world_size: int
    rank: int

    @property
    def update_size(self) -> int:
        """Samples of a full update over all ranks."""
        return self.micro_batch_size * self.accumulation * self.world_size

    def steps_per_epoch(self, num_samples: int, *, drop_last: bool) -> int:
        """Updates of one epoch; at least 1 when there is any sample."""
        if drop_last:
            return max(1, num_samples // self.update_size)
        return math.ceil(num_samples / self.update_size)

    def num_micro_batches(self, num_samples: int) -> int:
        """Micro-batches per rank that ``num_samples`` samples make."""
        return math.ceil(math.ceil(num_samples / self.micro_batch_size) / self.world_size)

    def micro_batches(self, update: Sequence[T]) -> list[tuple[Sequence[T], float]]:
        """This rank's micro-batches of one update, each with the divisor of its mean loss."""
        size = self.micro_batch_size
        return self.assign([update[start : start + size] for start in range(0, len(update), size)])

    def assign(self, chunks: Sequence[Sequence[T]]) -> list[tuple[Sequence[T], float]]:
        """This rank's share of an update's chunks, each with the divisor of its mean loss.

        The average over the ranks of ``loss / divisor``, summed over the micro-batches, weighs every sample of the
        update equally. A rank without samples of its own in a ragged update gets one sample and an infinite divisor,
        because every rank must take part in the collectives.
        """
        total, world = sum(map(len, chunks)), self.world_size
        result: list[tuple[Sequence[T], float]] = []
        for start in range(0, len(chunks), world):
            if start + self.rank < len(chunks):
                chunk = chunks[start + self.rank]
                result.append((chunk, total / (len(chunk) * world)))
            else:
                result.append((chunks[0][:1], math.inf))
        return result


def epoch_order(num_samples: int, seed: int, epoch: int) -> torch.Tensor:
    """The epoch's permutation of the sample indices, that of accelerate's SeedableRandomSampler."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed + epoch))
