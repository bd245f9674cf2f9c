"""Learning-rate schedules."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

from hydra.utils import get_object
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..build.build import build
from ..schema import scheduler as schema

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["make_scheduler"]


def make_scheduler(node: Any, optimizer: Optimizer, num_training_steps: int, *, mode: Literal["min", "max"]) -> Any:
    """The scheduler of a node: it sets the learning rate now, and for the next update at each `step()`.

    A ReduceLROnPlateau is stepped with a metric after each evaluation instead; ``mode`` is that metric's direction.
    A class or function of the user's own is called as ``target(optimizer, **keys)``, torch's contract, and is given
    ``num_training_steps`` (``mode``, a ReduceLROnPlateau) when it takes it and the node does not say.
    """
    if isinstance(node, schema.ReduceLROnPlateau):
        return build(node, optimizer=optimizer, mode=mode)
    if not isinstance(node, Mapping):
        return build(node, optimizer=optimizer, num_training_steps=num_training_steps)
    target = get_object(node["_target_"])
    first, *others = signature(target).parameters
    runtime: dict[str, Any] = {first: optimizer}
    if isinstance(target, type) and issubclass(target, ReduceLROnPlateau):
        runtime["mode"] = mode
    elif "num_training_steps" in others:
        runtime["num_training_steps"] = num_training_steps
    return build(node, **{key: value for key, value in runtime.items() if key not in node})
