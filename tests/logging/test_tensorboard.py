from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from trainer.events import Events
from trainer.logging.tensorboard import TensorBoard
from trainer.schema.logging import TensorBoard as Node
from trainer.state import RunInfo, State

pytest.importorskip("tensorboard")


def log(directory: Path, steps: range, *, resumed_step: int = 0, log_dir: str | None = None) -> None:
    events = Events({}, {"tensorboard": TensorBoard(Node(log_dir=log_dir))}, timeout=30)
    config = {"optim": {"learning_rate": 1e-4}, "hub": {"hub_token": "***"}}
    events.start(
        RunInfo(directory=directory, run_id="i", run_name="n", project="p", config=config, resumed_step=resumed_step),
        State(),
    )
    for step in steps:
        events.report({"step": step, "epoch": step / 10, "time": 1e9 + step, "loss": 1 / step, "learning_rate": 1e-4})
        events.report({"step": step, "epoch": step / 10, "time": 1e9 + step, "eval_loss": 2 / step})
    events.report({"step": steps[-1], "epoch": 1.0, "time": 1e9, "loss": math.nan, "note": "not a number"})
    events.finish("completed")


def read(directory: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def test_scalars_and_config_are_read_back(tmp_path: Path) -> None:
    log(tmp_path, range(1, 4))
    events = read(tmp_path / "tensorboard")
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/learning_rate", "train/epoch", "eval/loss"}
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == [1, 2, 3, 3]
    assert losses[0].value == 1.0
    assert losses[1].wall_time == 1e9 + 2
    assert math.isnan(losses[-1].value)
    assert [event.value for event in events.Scalars("eval/loss")] == pytest.approx([2.0, 1.0, 2 / 3])
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "learning_rate: 0.0001" in text
    assert "hub_token: '***'" in text


def test_a_resumed_run_hides_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log(tmp_path, range(1, 6), log_dir=str(tmp_path / "tb"))
    log(tmp_path, range(4, 8), resumed_step=3, log_dir=str(tmp_path / "tb"))
    assert [event.step for event in read(tmp_path / "tb").Scalars("eval/loss")] == [1, 2, 3, 4, 5, 6, 7]
