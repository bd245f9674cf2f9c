"""Stop when evaluations no longer improve."""

from __future__ import annotations

import math
from typing import Any

from ..schema.callbacks import EarlyStopping as EarlyStoppingNode
from ..state import Control, State
from .callback import Callback


class EarlyStopping(Callback):
    """Hugging Face's rule: an evaluation counts as an improvement when it beats the best so far by more than the
    threshold; any strictly better one becomes the best to beat; so many others in a row end the run.

    The best is stored here, not read from the state, so the rule holds whatever else is saved or tracked. NaN never
    improves.
    """

    def __init__(self, node: EarlyStoppingNode, *, metric: str, greater_is_better: bool) -> None:
        self._node = node
        self._metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        self._sign = 1.0 if greater_is_better else -1.0
        self._best: float | None = None
        """Best score (the metric, signed so that more is better) of the evaluations so far; None before the first."""
        self._failures = 0

    def on_evaluate(self, state: State, control: Control, metrics: dict[str, float]) -> None:
        if self._metric not in metrics:
            raise KeyError(
                f"checkpoint.metric_for_best_model={self._metric} is not among the evaluation's metrics: "
                f"{', '.join(sorted(metrics))}"
            )
        score = self._sign * metrics[self._metric]
        best = self._best
        improved = best is None or (score > best and score - best > self._node.early_stopping_threshold)
        self._failures = 0 if improved else self._failures + 1
        self._best = max(-math.inf if best is None else best, -math.inf if math.isnan(score) else score)
        if self._failures >= self._node.early_stopping_patience:
            control.should_training_stop = True

    def state_dict(self) -> dict[str, Any]:
        # As text: JSON has no infinity, which is the best to beat after a first evaluation that gave NaN.
        return {"best": None if self._best is None else repr(self._best), "failures": self._failures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best = None if state["best"] is None else float(state["best"])
        self._failures = int(state["failures"])
