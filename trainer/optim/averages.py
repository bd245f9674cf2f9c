"""Schedule-free optimizers (Defazio et al. 2024): one set of weights is trained; their average is evaluated, saved and
exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

TRAIN_WEIGHTS = "train_weights"
"""State key of the trained weights while the parameters hold the average."""


def switches(optimizer: Optimizer) -> bool:
    """Whether an optimizer has two sets of weights, and switches between them by train() and eval()."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))


def is_averaged(optimizer: Optimizer) -> bool:
    """Whether the parameters are the average: inside average_weights, or after the end of training."""
    return not optimizer.param_groups[0].get("train_mode", True)


@contextmanager
def average_weights(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the model's parameters are those to evaluate and save; for most optimizers nothing changes.

    The trained weights are saved as optimizer state meanwhile: recomputed from the average they would differ in the
    last bits, and training would depend on how often it is evaluated or saved. A checkpoint made inside holds both.
    """
    if not switches(optimizer) or is_averaged(optimizer):
        yield
        return
    for parameter in _parameters(optimizer):
        optimizer.state[parameter][TRAIN_WEIGHTS] = parameter.detach().clone()
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        train_weights(optimizer)


@torch.no_grad()
def train_weights(optimizer: Optimizer) -> None:
    """Make the parameters those to train: at the start, and after a checkpoint is loaded."""
    if not switches(optimizer):
        return
    optimizer.train()  # type: ignore[attr-defined]
    for parameter in _parameters(optimizer):
        saved = optimizer.state.get(parameter, {}).pop(TRAIN_WEIGHTS, None)
        if saved is not None:
            parameter.copy_(saved)


def end_training(optimizer: Optimizer, *, loaded: bool = False) -> None:
    """Make the parameters the average for good. ``loaded``: they already are, from a checkpoint just loaded."""
    if not switches(optimizer):
        return
    if not loaded:
        optimizer.eval()  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        if "train_mode" in group:
            group["train_mode"] = False


def _parameters(optimizer: Optimizer) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]
