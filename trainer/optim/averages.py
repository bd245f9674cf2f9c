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


def is_averaged(optimizer: Optimizer) -> bool:
    """Whether the parameters are the average already: within the context below, or because training is over."""
    return not optimizer.param_groups[0].get("train_mode", True)


@contextmanager
def average_weights(optimizer: Optimizer) -> Iterator[None]:
    """Within, the model's parameters are those to evaluate and save; nothing happens for most optimizers.

    The training's weights are kept beside them, as optimizer state: computed back from the average they would differ in
    the last bits, and training would depend on how often it is evaluated or saved. A checkpoint made within has both.
    """
    if not switches(optimizer) or is_averaged(optimizer):
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


def end_training(optimizer: Optimizer, *, loaded: bool = False) -> None:
    """Let the parameters be the average for good; ``loaded``: a checkpoint's weights, which are it, have just come."""
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
