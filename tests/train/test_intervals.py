from __future__ import annotations

import pytest

from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint, SaveStrategy
from trainer.schema.evaluation import Evaluation, IntervalStrategy
from trainer.schema.logging import Logging
from trainer.train.intervals import Interval, Intervals, resolve


@pytest.mark.parametrize(("steps", "every"), [(5, 5), (0.1, 10), (0.011, 2), (0.001, 1), (2.0, 2)])
def test_a_share_of_the_run_is_rounded_up(steps: float, every: int) -> None:
    assert resolve(steps, 100) == every


def due(interval: Interval, steps: int, epoch: int) -> list[int]:
    return [s for s in range(1, steps + 1) if interval.due(s, epoch_end=s % epoch == 0, end=s == steps)]


def test_strategies() -> None:
    config = Config(
        logging=Logging(logging_strategy=IntervalStrategy.steps, logging_steps=4),
        evaluation=Evaluation(eval_strategy=IntervalStrategy.steps),
        checkpoint=Checkpoint(save_strategy=SaveStrategy.epoch),
    )
    intervals = Intervals.of(config, 10)
    assert due(intervals.log, 10, 3) == [4, 8]
    assert due(intervals.evaluate, 10, 3) == [4, 8, 10]  # eval_steps falls back to logging_steps; the last step too
    assert due(intervals.save, 10, 3) == [3, 6, 9]
    assert not intervals.save_best


@pytest.mark.parametrize("strategy", ["no", "best"])
def test_no_and_best_are_never_due_by_themselves(strategy: str) -> None:
    config = Config(checkpoint=Checkpoint(save_strategy=SaveStrategy(strategy)))
    intervals = Intervals.of(config, 10)
    assert due(intervals.save, 10, 3) == []
    assert intervals.save_best == (strategy == "best")
