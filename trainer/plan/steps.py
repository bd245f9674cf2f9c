"""The arithmetic of a run: ranks, the effective batch, updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..data.batches import BatchLayout
from ..data.train_data import TrainData
from ..parallel.engine import engine_class
from ..schema import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """Counts of a run."""

    world_size: int
    data_world_size: int
    """Ranks that see different data: those of a context-parallel or tensor-parallel group see the same."""
    update_size: int
    """Samples per optimizer update over all ranks."""
    max_steps: int | None
    steps_per_epoch: int | None
    num_samples: int | None


def batches(config: Config, world_size: int, local_world_size: int, dataset: Any) -> Batches:
    """World size, effective batch and steps, as the run will count them."""
    train = config.train
    ranks = engine_class(config.parallel).data_parallel_size(config.parallel, world_size, local_world_size)
    layout = BatchLayout(train.per_device_train_batch_size, train.gradient_accumulation_steps, ranks, 0)
    data = TrainData(dataset, layout, config.data, collate=None, seed=config.run.seed, device=torch.device("cpu"))
    sized = data.steps_per_epoch is not None or train.max_steps > 0
    return Batches(
        world_size=world_size,
        data_world_size=layout.world_size,
        update_size=layout.update_size,
        max_steps=data.max_steps(train.max_steps, train.num_train_epochs) if sized else None,
        steps_per_epoch=data.steps_per_epoch,
        num_samples=data.num_samples,
    )
