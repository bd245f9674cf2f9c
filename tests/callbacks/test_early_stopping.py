from __future__ import annotations

import json
import math

import numpy as np
import pytest

from trainer.callbacks.early_stopping import EarlyStopping
from trainer.schema.callbacks import EarlyStopping as Node
from trainer.state import Control, State


def stops_at(
    values: list[float], *, patience: int = 1, threshold: float = 0.0, greater: bool = False, resume_after: int = -1
) -> int | None:
    """The evaluation (from 1) that ends the run."""
    node = Node(early_stopping_patience=patience, early_stopping_threshold=threshold)
    callback, control = EarlyStopping(node, metric="score", greater_is_better=greater), Control()
    for number, value in enumerate(values, 1):
        callback.on_evaluate(State(), control, {"eval_score": value})
        if control.should_training_stop:
            return number
        if number == resume_after:
            kept = json.loads(json.dumps(callback.state_dict(), allow_nan=False))
            callback = EarlyStopping(node, metric="eval_score", greater_is_better=greater)
            callback.load_state_dict(kept)
    return None


def hugging_face(values: list[float], *, patience: int, threshold: float, greater: bool) -> int | None:
    """transformers' own callback, driven as its Trainer drives it (best_metric is updated after on_evaluate)."""
    transformers = pytest.importorskip("transformers")
    callback = transformers.EarlyStoppingCallback(patience, threshold)
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    better = np.greater if greater else np.less
    for number, value in enumerate(values, 1):
        callback.check_metric_value(type("A", (), {"greater_is_better": greater}), state, control, value)
        if callback.early_stopping_patience_counter >= patience:
            return number
        if state.best_metric is None:
            state.best_metric = -math.inf if greater else math.inf
        if better(value, state.best_metric):
            state.best_metric = value
    return None


def test_patience_3_on_a_flat_metric_stops_at_evaluation_4() -> None:
    assert stops_at([1.0] * 9, patience=3) == 4


def test_the_threshold_is_absolute_and_small_steps_still_raise_the_bar() -> None:
    assert stops_at([1.0, 0.95, 0.9, 0.85], patience=2, threshold=0.07) == 3
    assert stops_at([1.0, 0.9, 0.8], patience=1, threshold=0.07) is None


@pytest.mark.parametrize("resume_after", [1, 2, 3])
def test_patience_survives_a_resume(resume_after: int) -> None:
    assert stops_at([1.0] * 9, patience=3, resume_after=resume_after) == 4
    assert stops_at([math.nan, 1.0, 1.0, 1.0], patience=2, resume_after=resume_after) == 4


def test_the_same_as_hugging_face() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = [float(v) for v in rng.choice([1.0, 0.9, 0.95, 0.5, 1.2, math.nan, math.inf], size=12)]
        rule = {"patience": int(rng.integers(1, 5)), "threshold": float(rng.choice([0.0, 0.06, 0.3]))}
        greater = bool(rng.integers(2))
        expected = hugging_face(values, greater=greater, **rule)  # type: ignore[arg-type]
        assert stops_at(values, greater=greater, **rule) == expected, (values, rule, greater)  # type: ignore[arg-type]


def test_a_metric_that_is_missing_is_an_error_with_what_there_is() -> None:
    callback = EarlyStopping(Node(), metric="acuracy", greater_is_better=True)
    with pytest.raises(KeyError, match="eval_acuracy is not among the evaluation's metrics: eval_accuracy, eval_loss"):
        callback.on_evaluate(State(), Control(), {"eval_loss": 1.0, "eval_accuracy": 0.5})
