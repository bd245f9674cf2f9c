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
    """The metric that ranks evaluations, and its direction."""

    metric: str | None
    """With its prefix: eval_loss, eval_accuracy ...; None: nothing is ranked."""
    greater_is_better: bool

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, several: bool = False) -> Best:
        """`loss` unless named; greater is better unless the name ends in `loss` (HF's defaults). Of ``several``
        evaluation sets one must be named."""
        if several and checkpoint.metric_for_best_model is None:
            return cls(None, bool(checkpoint.greater_is_better))
        name = (checkpoint.metric_for_best_model or "loss").removeprefix("eval_")
        greater = checkpoint.greater_is_better
        return cls(f"eval_{name}", not name.endswith("loss") if greater is None else greater)

    def value(self, metrics: dict[str, float]) -> float:
        """The metric of an evaluation; KeyError with what there is."""
        if self.metric is None or self.metric not in metrics:
            names = ", ".join(sorted(metrics))
            raise KeyError(f"checkpoint.metric_for_best_model={self.metric}: an evaluation gives {names}")
        return metrics[self.metric]

    def update(self, state: State, metrics: dict[str, float]) -> bool:
        """Keep the score in ``state``; True when this evaluation is the best so far, never one that is not finite."""
        if self.metric is None:
            return False
        value = self.value(metrics)
        if not math.isfinite(value):
            logger.warning("step %d: %s is %s: not taken for the best", state.step, self.metric, value)
            return False
        best = state.best_metric
        if best is not None and not (value > best if self.greater_is_better else value < best):
            return False
        state.best_metric, state.best_step = value, state.step
        return True
