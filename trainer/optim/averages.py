"""Schedule-free optimizers: one set of weights is trained, another (their average) evaluated, saved and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

KEPT = "train_weights"
"""State key of the training's weights while the parameters hold the average."""


def switches(optimizer: Optimizer) -> bool:
    """Whether an optimizer has two sets of weights."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


@contextmanager
def average_weights(optimizer: Optimizer) -> Iterator[None]:
    """Within, the model's parameters are those to evaluate and save; nothing happens for most optimizers.

    The training's weights are kept beside them, as optimizer state: computed back from the average they would differ in
    the last bits, and training would depend on how often it is evaluated or saved. A checkpoint made within has both.
    """
    if not switches(optimizer):
        yield
        return
    for parameter in _parameters(optimizer):
        optimizer.state[parameter][KEPT] = parameter.detach().clone()
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        train_weights(optimizer)


@torch.no_grad()
def train_weights(optimizer: Optimizer) -> None:
    """Let the parameters be those to train: at the start, and after a checkpoint was loaded."""
    if not switches(optimizer):
        return
    optimizer.train()  # type: ignore[attr-defined]
    for parameter in _parameters(optimizer):
        kept = optimizer.state.get(parameter, {}).pop(KEPT, None)
        if kept is not None:
            parameter.copy_(kept)


def _parameters(optimizer: Optimizer) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]
