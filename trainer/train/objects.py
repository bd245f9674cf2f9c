"""What a Python caller passes in place of what the config would build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..callbacks.callback import Callback
from ..logging.reporter import Reporter
from ..task import Task


@dataclass(kw_only=True, slots=True)
class Objects:
    """An object that is given is used as it is, and its node in the config is not built; None leaves it to the config.

    Callbacks and reporters are added to the config's; one of the same name takes the place of the config's.
    """

    model: nn.Module | None = None
    """Trained in place."""
    train_dataset: Any = None
    eval_dataset: Any = None
    """A dataset, or a dict of named ones."""
    predict_dataset: Any = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    compute_metrics: Callable[..., dict[str, Any]] | None = None
    task: Task | Callable[..., Any] | None = None
    """A Task, or a loss of (output, target)."""
    callbacks: Mapping[str, Callback] = field(default_factory=dict)
    reporters: Mapping[str, Reporter] = field(default_factory=dict)
