from trainer.logging.names import tracker_names


def test_the_trainers_names() -> None:
    record = {"step": 1, "time": 2.0, "epoch": 0.5, "loss": 3.0, "eval_loss": 4.0, "test_accuracy": 1.0, "note": "x"}
    assert tracker_names(record) == {"train/epoch": 0.5, "train/loss": 3.0, "eval/loss": 4.0, "test/accuracy": 1.0}
