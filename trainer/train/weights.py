"""How much each micro-batch of an update weighs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import distributed
from ..data.batches import MicroBatch
from ..task.task import Task

WeightedBatch = tuple[object, float | Tensor]
"""A batch, and the divisor of its mean loss, on the device where it was counted there."""


def weigh_by_items(
    task: Task, micro_batches: list[MicroBatch], device: torch.device, *, average_tokens: bool
) -> list[WeightedBatch]:
    """The micro-batches with divisors by which every item (label, token) of the update weighs the same.

    A micro-batch without items gets an infinite divisor. If any micro-batch's items are unknown, all keep their
    divisors by samples. Collective with ``average_tokens``: the items are then those of all ranks, else of this one.
    Without a synchronisation with the device.
    """
    world = distributed.world_size()
    if world == 1 and len(micro_batches) == 1:
        return list(micro_batches)
    counts = torch.stack([_count(task, batch, divisor, device) for batch, divisor in micro_batches])
    total = counts.sum()
    if average_tokens:
        distributed.all_reduce_sum(total)
    else:
        world = 1
    by_samples = torch.tensor([divisor for _, divisor in micro_batches], dtype=counts.dtype).to(device)
    by_items = torch.where(counts == 0, math.inf, total / (counts * world))
    divisors = torch.where(total.isnan(), by_samples, by_items)
    return [(batch, divisor) for (batch, _), divisor in zip(micro_batches, divisors.unbind(), strict=True)]


def _count(task: Task, batch: object, divisor: float, device: torch.device) -> Tensor:
    """The batch's items as a float64 scalar; nan if the task does not know them."""
    if divisor == math.inf:  # another rank's sample, only to take part in the collectives
        return torch.zeros((), dtype=torch.float64, device=device)
    items = task.num_items(batch)
    return torch.as_tensor(math.nan if items is None else items, dtype=torch.float64, device=device)
