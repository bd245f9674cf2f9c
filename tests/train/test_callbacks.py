"""What callbacks are given, and what they add to records, in whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import jobs
from tests.jobs import STEPS, make_config
from trainer import distributed
from trainer.callbacks.callback import Callback, TrainingParts
from trainer.logging.jsonl import read
from trainer.schema.parallel import DDP
from trainer.state import Control, State


class Freezes(Callback):
    """Uses every part: freezes a layer, and logs a tensor, a rate and the sample count."""

    def setup(self, parts: TrainingParts) -> None:
        self.parts = parts
        self.layer = parts.model.get_parameter("blocks.1.up.weight")
        self.layer.requires_grad_(False)
        self.before = self.layer.clone()
        assert callable(parts.task.loss)
        assert parts.engine.device.type == "cpu"

    def on_step_end(self, state: State, control: Control) -> None:
        rate, size = self.parts.optimizer.param_groups[0]["lr"], len(self.parts.data.dataset)
        assert self.parts.scheduler.get_last_lr()[0] == rate
        control.log({"weight": self.layer.sum(), "next_rate": rate, "samples": size + distributed.rank()})

    def on_log(self, state: State, control: Control, logs: dict[str, Any]) -> None:
        assert logs["next_rate"] == self.parts.optimizer.param_groups[0]["lr"]

    def on_train_end(self, state: State, control: Control) -> None:
        assert torch.equal(self.layer, self.before)


class Shadows(Callback):
    """Logs a name that the record has."""

    def on_step_end(self, state: State, control: Control) -> None:
        control.log({"loss": 0.0})


def callback(name: str) -> dict[str, Any]:
    return {name: {"_target_": f"tests.train.test_callbacks.{name}"}}


@pytest.mark.parametrize("world", [1, 2])
def test_a_callback_gets_the_parts_and_adds_to_records(tmp_path: Path, world: int) -> None:
    config = make_config(callbacks=callback("Freezes"), parallel=DDP(ddp_find_unused_parameters=True))
    config.train.per_device_train_batch_size //= world
    assert jobs.train(config, tmp_path, world_size=world) == [0] * world
    records = [record for record in read(tmp_path / "metrics.jsonl") if "loss" in record]
    assert [record["step"] for record in records] == list(range(2, STEPS + 1, 2))
    assert {record["samples"] for record in records} == {49}, "rank 0's"
    assert len({record["weight"] for record in records}) == 1
    assert all(isinstance(record["weight"], float) for record in records)


def test_a_value_cannot_replace_the_records_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.train(make_config(callbacks=callback("Shadows")), tmp_path) == [1]
    assert "control.log: the record has a loss of its own; fix: another name" in capfd.readouterr().err
