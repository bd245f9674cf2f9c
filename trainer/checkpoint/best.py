"""The best evaluation so far."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from ..schema.checkpoint import Checkpoint
from ..state import State

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Best:
    """Ranks evaluations by a metric."""

    metric: str | None
    """With its prefix: eval_loss, eval_accuracy ...; None ranks nothing."""
    greater_is_better: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, several: bool = False) -> Best:
        """The config's metric. As in Hugging Face it defaults to `loss`, and greater is better unless its name ends in
        `loss`. With ``several`` evaluation sets there is no default."""
        if several and checkpoint.metric_for_best_model is None:
            return cls(None, bool(checkpoint.greater_is_better))
        name = (checkpoint.metric_for_best_model or "loss").removeprefix("eval_")
        greater = checkpoint.greater_is_better
        return cls(f"eval_{name}", not name.endswith("loss") if greater is None else greater)

    def value(self, metrics: dict[str, float]) -> float:
        """The metric's value in an evaluation; KeyError, naming those there are, if it is not one of them."""
        if self.metric is None or self.metric not in metrics:
            names = ", ".join(sorted(metrics))
            raise KeyError(f"checkpoint.metric_for_best_model={self.metric}: the evaluation has {names}")
        return metrics[self.metric]

    def update(self, state: State, metrics: dict[str, float]) -> bool:
        """Record an evaluation in ``state`` if it is the best so far; return whether it is. A value that is not finite
        never is."""
        if self.metric is None:
            return False
        value = self.value(metrics)
        if not math.isfinite(value):
            logger.warning("step %d: %s is %s: not counted as the best", state.step, self.metric, value)
            return False
        best = state.best_metric
        if best is not None and not (value > best if self.greater_is_better else value < best):
            return False
        state.best_metric, state.best_step = value, state.step
        return True
