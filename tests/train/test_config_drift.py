"""What checkpoint.allow_drift names takes effect when a run resumes; other data is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.jobs import make_config
from tests.tiny import Augmented
from trainer.errors import ConfigError
from trainer.launch import outcome, rank
from trainer.logging.jsonl import read
from trainer.run.directory import Status
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.optim import AdamW
from trainer.schema.run import Run
from trainer.schema.scheduler import Constant, Cosine, Linear, ReduceLROnPlateau
from trainer.schema.train import Train

STEPS = 6
RATE = 1e-2


def config_with(*allowed: str, steps: int = STEPS, **sections: Any) -> Config:
    train = Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=steps)
    saving = Checkpoint(save_steps=STEPS, allow_drift=list(allowed))
    return make_config(**{"train": train, "checkpoint": saving, "scheduler": Linear(), **sections})


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of 6 steps, with a rate that falls to 0 in the end."""
    directory = tmp_path_factory.mktemp("before") / "run"
    assert jobs.train(config_with(), directory) == [0]
    return directory / "checkpoints" / f"checkpoint-{STEPS}"


def resumed(before: Path, directory: Path, config: Config) -> tuple[list[float], dict[str, Any]]:
    """The rates of the updates after step 6, every second one, and the last checkpoint's state.json."""
    assert jobs.train(config, directory, resume=str(before)) == [0]
    rates = [record["learning_rate"] for record in read(directory / "metrics.jsonl") if "learning_rate" in record]
    newest = max((directory / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    return rates, json.loads((newest / "state.json").read_bytes())


def test_the_optimizer_gets_the_new_values_and_the_schedule_the_new_rate(before: Path, tmp_path: Path) -> None:
    optim = AdamW(learning_rate=0.5, weight_decay=0.3, adam_beta1=0.8)
    rates, state = resumed(before, tmp_path / "run", config_with("optim", "train.max_steps", steps=12, optim=optim))
    # steps 8, 10 and 12 of 12, logged: the factors of updates 7, 9 and 11
    assert rates == pytest.approx([0.5 * 5 / 12, 0.5 * 3 / 12, 0.5 * 1 / 12])
    assert [group["weight_decay"] for group in state["engine"]["param_groups"]] == [0.3, 0.0]
    assert state["engine"]["param_groups"][0]["betas"] == [0.8, 0.999]
    assert state["config"]["optim.learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (Constant(), [RATE] * 3),
        (Cosine(), [RATE * factor for factor in (0.37059, 0.14645, 0.01704)]),
        (ReduceLROnPlateau(), None),
    ],
    ids=["constant", "cosine", "plateau"],
)
def test_another_schedule_goes_on_at_the_step_that_is_reached(
    before: Path, tmp_path: Path, scheduler: Any, expected: list[float] | None
) -> None:
    config = config_with("scheduler", "train.max_steps", steps=12, scheduler=scheduler)
    rates, _ = resumed(before, tmp_path / "run", config)
    assert rates == (pytest.approx(expected, rel=1e-3) if expected else [rates[0]] * 3)


def test_more_steps_alone_stretch_the_schedule(before: Path, tmp_path: Path) -> None:
    rates, _ = resumed(before, tmp_path / "run", config_with("train.max_steps", steps=12))
    assert rates == pytest.approx([RATE * 5 / 12, RATE * 3 / 12, RATE * 1 / 12])


def test_another_seed_is_not_the_checkpoints_random_state(before: Path, tmp_path: Path) -> None:
    config = config_with("train.max_steps", steps=12)
    jobs.train(config, tmp_path / "same", resume=str(before))
    other = replace(config, run=Run(output_dir="unused", seed=8, use_cpu=True))
    other = replace(other, checkpoint=replace(other.checkpoint, allow_drift=["run.seed", "train.max_steps"]))
    jobs.train(other, tmp_path / "other", resume=str(before))
    losses = [[r["loss"] for r in read(tmp_path / name / "metrics.jsonl") if "loss" in r] for name in ("same", "other")]
    assert losses[0] != losses[1]


def test_updates_of_another_size_go_on_at_the_same_sample(before: Path, tmp_path: Path) -> None:
    train = Train(per_device_train_batch_size=4, gradient_accumulation_steps=1, max_steps=7)
    allowed = ("train.gradient_accumulation_steps", "train.max_steps")
    _, state = resumed(before, tmp_path / "run", config_with(*allowed, train=train))
    assert (state["data"]["epoch"], state["data"]["step_in_epoch"], state["data"]["update_size"]) == (1, 0, 4)


class Shorter(Augmented):
    """Other data of the same class of config."""

    def __len__(self) -> int:
        return 41


def test_other_data_is_refused_until_it_is_allowed(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def config(*allowed: str) -> Config:
        data = make_config().data
        data = replace(data, train_dataset={"_target_": f"{__name__}.Shorter"})
        made = config_with("train.max_steps", *allowed, steps=8, data=data)
        made.checkpoint.resume_from_checkpoint = str(before)
        return made

    jobs.begin(config(), tmp_path / "run")
    ended = rank.train(config(), tmp_path / "run")
    assert (ended.status, ended.final) == (Status.failed, True)
    assert isinstance(ended.exception, ConfigError)
    assert outcome.report(tmp_path / "run", ended) == 2
    line = capsys.readouterr().err.strip()
    assert line == (
        f"data.train_dataset ({before}): the checkpoint was written with other data: its length was 49, now it is 41; "
        "fix: checkpoint.allow_drift=[train.max_steps,data.train_dataset]"
    )
    jobs.begin(config(), tmp_path / "allowed")
    assert rank.train(config("data.train_dataset"), tmp_path / "allowed").status is Status.completed
    log = (tmp_path / "allowed" / "train.log").read_text()
    assert "taken from the config, not from the checkpoint: data.train_dataset tests.tiny.Augmented ->" in log
    assert "the schedule: linear goes on at step 6 of 8, learning rate 0.0025 (the checkpoint's: 0)" in log
