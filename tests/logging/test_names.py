from __future__ import annotations

from trainer.logging.names import flatten, numbers, tracker_names

RECORD = {"step": 1, "time": 2.0, "epoch": 0.5, "loss": 3.0, "eval_loss": 4.0, "test_accuracy": 1.0, "note": "x"}


def test_the_trainers_names() -> None:
    assert tracker_names(RECORD) == {"train/epoch": 0.5, "train/loss": 3.0, "eval/loss": 4.0, "test/accuracy": 1.0}


def test_numbers() -> None:
    assert numbers(RECORD) == {"epoch": 0.5, "loss": 3.0, "eval_loss": 4.0, "test_accuracy": 1.0}


def test_a_config_in_one_level() -> None:
    config = {"optim": {"learning_rate": 1, "betas": [0.9, 0.99]}, "callbacks": {}, "task": None}
    assert flatten(config) == {"optim.learning_rate": 1, "optim.betas": [0.9, 0.99], "task": None}
