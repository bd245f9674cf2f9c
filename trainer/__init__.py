"""trainer: experiments composed from small pieces, validated before they cost anything, run on any engine.

    from trainer import Trainer

    run = Trainer("experiment=digits", "optim.learning_rate=3e-4").train()
    print(run.metrics["eval_accuracy"])

Everything public is here, and described in docs/api.md. A name is imported when it is first used: `import trainer`
costs nothing, and composing needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.run import Run
    from .api.trainer import Trainer, compose
    from .callbacks.callback import Callback
    from .errors import ConfigError
    from .logging.reporter import Reporter
    from .parallel.engine import Engine
    from .schema import Config
    from .state import Control, State
    from .task.task import Task

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Config",
    "ConfigError",
    "Control",
    "Engine",
    "Reporter",
    "Run",
    "State",
    "Task",
    "Trainer",
    "compose",
]

_HOMES = {
    "Callback": "callbacks.callback",
    "Config": "schema",
    "ConfigError": "errors",
    "Control": "state",
    "Engine": "parallel.engine",
    "Reporter": "logging.reporter",
    "Run": "api.run",
    "State": "state",
    "Task": "task.task",
    "Trainer": "api.trainer",
    "compose": "api.trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
