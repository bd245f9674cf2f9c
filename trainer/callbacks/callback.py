"""The base class of callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..state import Control, State

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ..data.train_data import TrainData
    from ..parallel.engine import Engine
    from ..task.task import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingParts:
    """The parts of a run that a callback may read and change."""

    model: nn.Module
    """As it was built or passed, without what an engine wraps around it; its parameters may be sharded."""
    optimizer: Optimizer
    scheduler: Any
    task: Task
    data: TrainData
    """The training data, whose dataset is None if the run does not train."""
    engine: Engine


class Callback:
    """Takes part in a run, on every rank. An exception in a hook ends the run.

    Override the hooks that you need; those that begin with on_ have Hugging Face's names. A hook may set the flags of
    ``control`` and add values to the next record with ``control.log``. ``state_dict`` and ``load_state_dict`` carry a
    callback's own state over a resume.
    """

    def setup(self, parts: TrainingParts) -> None:
        """Called once, before a checkpoint is loaded and before every other hook. Keep what you need of ``parts``."""

    def on_train_begin(self, state: State, control: Control) -> None: ...
    def on_epoch_begin(self, state: State, control: Control) -> None: ...
    def on_step_begin(self, state: State, control: Control) -> None: ...
    def on_step_end(self, state: State, control: Control) -> None: ...
    def on_log(self, state: State, control: Control, logs: dict[str, Any]) -> None: ...
    def on_evaluate(self, state: State, control: Control, metrics: dict[str, float]) -> None: ...
    def on_predict(self, state: State, control: Control, metrics: dict[str, float]) -> None: ...
    def on_save(self, state: State, control: Control, directory: Path) -> None: ...
    def on_epoch_end(self, state: State, control: Control) -> None: ...
    def on_train_end(self, state: State, control: Control) -> None: ...
    def on_exception(self, state: State, control: Control, error: BaseException) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """The state to save in checkpoints; must be JSON-able."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
