from __future__ import annotations

import math

import pytest

from trainer.checkpoint.best import Best
from trainer.schema.checkpoint import Checkpoint
from trainer.state import State


@pytest.mark.parametrize(
    ("settings", "metric", "greater"),
    [
        ({}, "eval_loss", False),
        ({"metric_for_best_model": "accuracy"}, "eval_accuracy", True),
        ({"metric_for_best_model": "eval_accuracy", "greater_is_better": False}, "eval_accuracy", False),
        ({"metric_for_best_model": "token_loss"}, "eval_token_loss", False),
    ],
)
def test_defaults_are_hugging_faces(settings: dict[str, object], metric: str, greater: bool) -> None:
    assert Best.of(Checkpoint(**settings)) == Best(metric, greater)  # type: ignore[arg-type]


def test_only_a_strictly_better_and_finite_value_is_the_best() -> None:
    best, state = Best("eval_loss", False), State()
    taken = []
    for step, value in enumerate([math.nan, 2.0, 2.0, math.inf, 1.5, math.nan, 1.6], 1):
        state.step = step
        taken.append(best.update(state, {"eval_loss": value}))
    assert taken == [False, True, False, False, True, False, False]
    assert (state.best_metric, state.best_step) == (1.5, 5)


def test_an_absent_metric_names_those_there_are() -> None:
    with pytest.raises(KeyError, match="eval_accuracy, eval_loss"):
        Best("eval_f1", True).value({"eval_loss": 1.0, "eval_accuracy": 0.5})
