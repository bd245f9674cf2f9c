"""Which samples make up which micro-batch: a function of the seed, the epoch and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Cuts an update's samples into the micro-batches of all ranks.

    An update (global batch) holds ``micro_batch_size * accumulation * world_size`` samples, the last one of an epoch
    what is left. Chunk j of an update goes to rank ``j % world_size`` as its micro-batch ``j // world_size``, as
    accelerate's BatchSamplerShard deals them. So the updates are the same at any world size and split.
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
        """Updates of one epoch; at least 1 where there is a sample at all."""
        if drop_last:
            return max(1, num_samples // self.update_size)
        return math.ceil(num_samples / self.update_size)

    def rounds(self, num_samples: int) -> int:
        """Micro-batches of each rank that so many samples make."""
        return math.ceil(math.ceil(num_samples / self.micro_batch_size) / self.world_size)

    def micro_batches(self, update: Sequence[T]) -> list[tuple[Sequence[T], float]]:
        """This rank's micro-batches of one update, each with the divisor of its mean loss."""
        size = self.micro_batch_size
        return self.deal([update[start : start + size] for start in range(0, len(update), size)])

    def deal(self, chunks: Sequence[Sequence[T]]) -> list[tuple[Sequence[T], float]]:
        """This rank's of an update's chunks, each with the divisor of its mean loss.

        The gradient average over the ranks of ``loss / divisor``, summed over micro-batches, weighs each of the
        update's samples the same. A rank without samples of its own in a ragged update gets one sample and an
        infinite divisor, since every rank must take part in the collectives.
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
    """The epoch's permutation of sample indices; the one of accelerate's SeedableRandomSampler."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed + epoch))
