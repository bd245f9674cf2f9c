"""Tasks: the loss of a batch, and the metrics of an evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra.utils import get_object

from ..build.build import build
from .criterion import Criterion
from .task import Output, Supervised, Task

__all__ = ["Output", "Task", "make_task"]

METHODS = ("loss", "evaluate", "metrics", "summarise", "num_items")


def make_task(node: Any, *, label_names: Sequence[str] | None = None, label_smoothing: float = 0.0) -> Task:
    """The task that a node names: one of ours, any class with Task's methods, or a loss of (output, target), which may
    be a class or a function. ``node`` may also be an object passed from Python: a Task, or a loss."""
    task = _make_task(node)
    if isinstance(task, Supervised):
        task.label_names, task.label_smoothing = label_names, label_smoothing
    return task


def _make_task(node: Any) -> Task:
    is_node = isinstance(node, dict) or hasattr(node, "_target_")
    built = (_loss_function(node) or build(node)) if is_node else node
    if all(callable(getattr(built, method, None)) for method in METHODS):
        return built  # type: ignore[no-any-return]
    if callable(built):
        return Criterion(built)
    name = f"task._target_={node['_target_']}" if is_node else f"task={type(node).__name__}"
    raise TypeError(
        f"{name} is neither a trainer.Task nor a loss of (output, target); a task has the methods {', '.join(METHODS)}"
    )


def _loss_function(node: Any) -> Any:
    """The function that the node names, with the node's keys bound, if it is a loss: called with the keys alone, it
    would lack arguments. None for a factory, a class, or anything else."""
    if not isinstance(node, dict) or isinstance(function := get_object(node["_target_"]), type):
        return None
    keys = {key: value for key, value in node.items() if key != "_target_"}
    try:
        inspect.signature(function).bind(**keys)
    except (TypeError, ValueError):  # ValueError: a builtin without a signature
        return partial(function, **keys)
    return None
