"""train.nan_policy where the device is not asked at each step, and where bad steps never end."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests import jobs
from tests.jobs import STEPS, make_config
from tests.tiny import PLAIN, SAMPLES, Augmented, Still
from trainer.data.batches import epoch_order
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint, SaveStrategy
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation
from trainer.schema.logging import Logging
from trainer.schema.optim import SGD
from trainer.schema.parallel import DDP, FSDP, DeepSpeed
from trainer.schema.precision import Precision
from trainer.schema.train import NanPolicy, Train
from trainer.train import finite, session
from trainer.train.loop import Loop


class Flagged(Augmented):
    """The first input of sample 20 (or of all samples but the first update's) is 0, or nan."""

    def __init__(self, value: float = 0.0, after_first: bool = False) -> None:
        super().__init__(augment=False)
        order = epoch_order(SAMPLES, 3, 0).tolist()
        self.inputs[order[8:] if after_first else [20], 0] = value


class Kinked(Still):
    """Where an input is 0 its loss is finite, and its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * (self.scale * x[:, :1]).square().sqrt()


def config(train: dict[str, Any], *, value: float = 0.0, after_first: bool = False, **sections: Any) -> Config:
    data = {"_target_": "tests.train.test_finite.Flagged", "value": value, "after_first": after_first}
    defaults: dict[str, Any] = {
        "train": Train(**{"per_device_train_batch_size": 8, "max_steps": STEPS} | train),
        "data": Data(train_dataset=data, eval_dataset=PLAIN),
        "model": {"_target_": "tests.train.test_finite.Kinked"},
        "evaluation": Evaluation(),
        "checkpoint": Checkpoint(save_steps=1),
        "logging": Logging(logging_steps=STEPS),
    }
    return make_config(**(defaults | sections))


@pytest.fixture
def asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of a device on which reading a number costs a synchronisation."""

    def policy(*arguments: Any, **options: Any) -> finite.FinitePolicy:
        return finite.FinitePolicy(*arguments, **options | {"synchronous": False})

    monkeypatch.setattr(session, "FinitePolicy", policy)


ENGINES: dict[str, tuple[Any, int]] = {
    "one": (DDP, 1),
    "ddp": (DDP, 2),
    "fsdp": (FSDP, 2),
    "zero1": (partial(DeepSpeed, zero_stage=1), 1),
    "zero3": (partial(DeepSpeed, zero_stage=3), 1),
}


@pytest.mark.usefixtures("asynchronous")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_gradient_that_is_not_finite_is_never_saved(
    tmp_path: Path, engine: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, world = ENGINES[engine]
    made = config({"per_device_train_batch_size": 8 // world}, parallel=make())
    assert jobs.train(made, tmp_path / "run", world_size=world) == [1] * world
    assert capfd.readouterr().err.count("NotFinite: ") == world, "the ranks agree on why they stop"
    bad = epoch_order(SAMPLES, 3, 0).tolist().index(20) // 8
    checkpoints = list((tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) == bad
    for path in checkpoints:
        for shard in path.glob("*.safetensors"):
            assert all(bool(tensor.isfinite().all()) for tensor in load_file(shard).values())


@pytest.mark.usefixtures("asynchronous")
def test_weights_that_are_not_finite_are_not_exported(tmp_path: Path) -> None:
    made = config({}, checkpoint=Checkpoint(save_strategy=SaveStrategy.no), logging=Logging(logging_steps=1000))
    assert jobs.train(made, tmp_path / "run") == [1]
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.usefixtures("asynchronous")
def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = config({"per_device_train_batch_size": 4}, value=math.nan, parallel=DDP())
    assert jobs.train(made, tmp_path / "run", world_size=2) == [1, 1]
    assert capfd.readouterr().err.count("NotFinite: ") == 2


ENDLESS: dict[str, dict[str, Any]] = {
    "skip": {"train": {"nan_policy": NanPolicy.skip}},
    "rollback": {"train": {"nan_policy": NanPolicy.rollback}},
    "fp16": {"train": {}, "precision": Precision(fp16=True)},
    "zero": {"train": {"nan_policy": NanPolicy.skip}, "parallel": DeepSpeed(zero_stage=1)},
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_run_without_updates_is_given_up(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    sections = dict(ENDLESS[name])
    train = sections.pop("train") | {"max_nonfinite_steps": 4, "max_steps": 60}
    started = time.monotonic()
    assert jobs.train(config(train, after_first=True, **sections), tmp_path / "run") == [1]
    assert "4 updates in a row were not finite (train.max_nonfinite_steps=4)" in capfd.readouterr().err
    assert time.monotonic() - started < 60


def test_good_steps_between_rollbacks_are_progress_only_behind_the_last_bad_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After the checkpoint of step 4 each second update is bad, so that step 8, the next one, is never reached."""
    made = config(
        {"per_device_train_batch_size": 1, "nan_policy": NanPolicy.rollback, "max_nonfinite_steps": 5, "max_steps": 40},
        checkpoint=Checkpoint(save_strategy=SaveStrategy.steps, save_steps=4),
    )
    made.data.train_dataset = {"_target_": "tests.train.test_finite.EverySecond"}
    assert jobs.train(made, tmp_path / "run") == [1]
    assert "5 updates in a row" in capfd.readouterr().err


class EverySecond(Augmented):
    """In the first epoch's order, samples 4, 6, 8 ... are bad."""

    def __init__(self) -> None:
        super().__init__(augment=False)
        self.inputs[epoch_order(SAMPLES, 3, 0)[4::2], 0] = 0.0


class Reads(TorchDispatchMode):
    """Counts the numbers that are read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **kwargs or {})


@pytest.mark.usefixtures("asynchronous")
def test_no_step_reads_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With accumulation, where the items are counted, and `abort`; AdamW would read its step counts on the CPU."""
    step = Loop.step

    def watched(self: Loop, micro_batches: Any) -> Any:
        with Reads() as reads:
            out = step(self, micro_batches)
        assert reads.count == 0
        return out

    monkeypatch.setattr(Loop, "step", watched)
    made = config({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, value=1.0, optim=SGD())
    assert jobs.train(made, tmp_path / "run") == [0]
