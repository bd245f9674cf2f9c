"""What every side of the benchmarks shares: the data, the model with a clock in it, and the settings."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from trainer.callbacks.callback import Callback
from trainer.state import Control, State

BATCH, STEPS, WARMUP, LOG_EVERY, LEARNING_RATE = 32, 2200, 200, 100, 1e-3
SETTINGS = [
    "data.train_dataset._target_=parts.dataset",
    "data.eval_dataset=null",
    "model._target_=parts.Net",
    "task=classification",
    "task.metrics={}",
    "optim=adamw_fused",
    f"optim.learning_rate={LEARNING_RATE}",
    "scheduler=linear",
    "parallel=single",
    "precision=fp32",
    "logging=none",
    f"logging.logging_steps={LOG_EVERY}",
    f"train.per_device_train_batch_size={BATCH}",
    "train.max_grad_norm=1.0",
    "evaluation.eval_strategy=no",
    "checkpoint.save_strategy=no",
    "launch.nproc_per_node=1",
]
"""Ours, as overrides; the other sides are given the same in their own words."""


class Clock:
    """Microseconds per step between two forwards, the same measure for whoever owns the loop."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.forwards = 0
        self.begin = self.end = 0.0

    def tick(self) -> None:
        self.forwards += 1
        if self.forwards == WARMUP:
            self.begin = time.perf_counter()
        elif self.forwards == STEPS:
            self.end = time.perf_counter()

    def microseconds(self) -> float:
        assert self.forwards == STEPS, f"{self.forwards} forwards instead of {STEPS}"
        return (self.end - self.begin) / (STEPS - WARMUP) * 1e6


CLOCK = Clock()


class Net(nn.Sequential):
    """64-64-10, ticking at each forward."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        CLOCK.tick()
        return super().forward(x)


def dataset() -> TensorDataset:
    """1000 batches of random inputs and classes."""
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(BATCH * 1000, 64, generator=generator),
        torch.randint(10, (BATCH * 1000,), generator=generator),
    )


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """The Trainer's two parameter groups: biases are not decayed."""
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if "bias" not in name], "weight_decay": 0.0},
        {"params": [p for name, p in named if "bias" in name], "weight_decay": 0.0},
    ]


def linear(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """From the peak to zero over all steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / STEPS))


def shuffled(data: TensorDataset) -> Iterator[tuple[Tensor, ...]]:
    """STEPS batches, each epoch in a new order, one indexing per batch."""
    done = 0
    while True:
        for indices in torch.randperm(len(data)).split(BATCH):
            yield data[indices]
            done += 1
            if done == STEPS:
                return


class ExitAfterStep(Callback):
    """Ends the process after the first step, for the benchmark of the start."""

    def on_step_end(self, state: State, control: Control) -> None:
        os._exit(0)
