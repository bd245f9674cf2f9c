"""Evaluations and predictions of a run: recorded, passed to the callbacks, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..checkpoint.best import Best
from ..evaluation.evaluator import Evaluator
from ..events import Events
from ..optim import averages
from ..schema import Config
from ..state import Control, State
from . import batch_size
from .records import Records


class Evaluations:
    """Evaluates the current weights on behalf of the loop. All methods are collective."""

    def __init__(
        self,
        config: Config,
        evaluator: Evaluator,
        *,
        optimizer: Optimizer,
        scheduler: Any,
        state: State,
        control: Control,
        events: Events,
        records: Records,
        best: Best,
    ) -> None:
        self.config, self.evaluator, self.best = config, evaluator, best
        self.optimizer, self.scheduler = optimizer, scheduler
        self.state, self.control, self.events, self.records = state, control, events, records
        self.evaluated_step: int | None = None
        """The step of the last evaluation; None if the weights have been replaced since."""

    def report(self) -> dict[str, float]:
        """Evaluate, write a record, call the callbacks. The best evaluation so far stays what it is."""
        with batch_size.evaluation(self.config), averages.average_weights(self.optimizer):
            metrics = self.evaluator.evaluate()
        self.evaluated_step = self.state.step
        self.records.write(metrics)
        self.events.on_evaluate(self.state, self.control, metrics)
        return metrics

    def compare(self) -> bool:
        """Report an evaluation, and step a schedule that depends on it; True if it is the best so far."""
        metrics = self.report()  # before the update: callbacks compare with the previous best, as HF's early stopping
        better = self.best.update(self.state, metrics)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(self.best.value(metrics))
        return better

    def predict(self, directory: Path) -> None:
        """Write the predictions to ``directory``, and their metrics to a record."""
        metrics = self.evaluator.write_predictions(directory)
        self.records.write(metrics)
        self.events.on_predict(self.state, self.control, metrics)
