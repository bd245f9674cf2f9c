"""Runs that evaluate and predict with their final weights, or with a checkpoint's and no training at all."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests import jobs
from tests.evaluation.parts import RANKS, SPEED, expected, named, once, run, short
from tests.jobs import PREEMPTED, STEPS, STOPPED
from tests.tiny import PLAIN, SAMPLES
from tests.train.test_session import records, still
from trainer.config.composer import Composition
from trainer.errors import ConfigError
from trainer.run import directory as run_directory
from trainer.run.claim import claim
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation
from trainer.schema.parallel import DDP
from trainer.schema.run import Run
from trainer.schema.task import Classification

Compose = Callable[..., Composition]


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `keep` and the diary write."""
    monkeypatch.setenv("TEST_SEEN", str(tmp_path / "seen.pt"))
    return tmp_path / "seen.pt"


# The switches -----------------------------------------------------------------------------------------------------


def finished(directory: Path, **checkpoint: Any) -> Path:
    """A run of 14 steps with evaluations and checkpoints at 4, 8 and 12."""
    assert jobs.train(still(checkpoint=Checkpoint(save_steps=4, **checkpoint)), directory) == [0]
    return directory


def only(**sections: Any) -> Config:
    """Evaluation without training; the training data are not there."""
    defaults: dict[str, Any] = {
        "data": Data(train_dataset=named("Missing"), eval_dataset=PLAIN),
        "run": Run(seed=3, use_cpu=True, do_train=False, do_eval=True),
        "evaluation": Evaluation(),
        "parallel": DDP(),
    }
    return still(**(defaults | sections))


@pytest.mark.parametrize("only_model", [False, True])
@pytest.mark.parametrize("world", [1, 2])
def test_a_checkpoint_is_evaluated_without_training(tmp_path: Path, world: int, only_model: bool) -> None:
    trained = finished(tmp_path / "trained", save_only_model=only_model)
    wish = str(trained / "checkpoints" / "checkpoint-8")
    config = only()
    assert jobs.train(config, tmp_path / "run", world_size=world, resume=wish) == [0] * world
    (record,) = records(tmp_path / "run", "step")
    then = next(r for r in records(trained, "eval_loss") if r["step"] == 8)
    assert (record["step"], record["epoch"]) == (8, then["epoch"])
    assert record["eval_loss"] == pytest.approx(then["eval_loss"], rel=1e-5)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["result"]["last"]["eval_loss"] == record["eval_loss"]
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("place", ["", "checkpoints"])
def test_the_newest_of_a_runs_checkpoints_is_evaluated(tmp_path: Path, place: str) -> None:
    trained = finished(tmp_path / "trained")
    wish = str(trained / place)
    assert jobs.train(only(), tmp_path / "run", resume=wish) == [0]
    assert [r["step"] for r in records(tmp_path / "run", "eval_loss")] == [STEPS]


def test_auto_evaluates_what_is_in_its_own_directory(tmp_path: Path) -> None:
    trained = finished(tmp_path / "trained")
    before = records(trained, "step")
    assert jobs.train(only(), trained, resume="auto") == [0]
    *others, last = records(trained, "step")
    assert others == before
    assert last["eval_loss"] == records(trained, "eval_loss")[-2]["eval_loss"]


def test_fresh_weights_may_be_evaluated(tmp_path: Path) -> None:
    assert jobs.train(only(), tmp_path / "run") == [0]
    config = short(evaluation=once(eval_on_start=True, per_device_eval_batch_size=8))
    assert jobs.train(config, tmp_path / "start") == [0]
    assert (
        records(tmp_path / "run", "eval_loss")[0]["eval_loss"]
        == records(tmp_path / "start", "eval_loss")[0]["eval_loss"]
    )


def test_no_checkpoint_is_an_error_without_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.train(only(), tmp_path / "run", resume="auto") == [1]
    assert "no checkpoint in" in capfd.readouterr().err


def test_the_final_evaluation_is_not_made_twice(tmp_path: Path, seen: Path) -> None:
    config = short(evaluation=once(), callbacks={"diary": named("Diary")})
    config.run = Run(seed=3, use_cpu=True, do_eval=True)
    assert jobs.train(config, tmp_path / "just") == [0]
    config.evaluation = Evaluation()
    assert jobs.train(config, tmp_path / "not") == [0]
    assert seen.with_suffix(".txt").read_text() == "evaluate 2\nevaluate 2\n"
    assert [r["step"] for r in records(tmp_path / "not", "eval_loss")] == [2]


def test_the_best_weights_are_what_is_evaluated_at_the_end(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save_steps=2, load_best_model_at_end=True, greater_is_better=True)
    config = still(checkpoint=checkpoint, evaluation=once(eval_steps=2))
    config.run = Run(seed=3, use_cpu=True, do_eval=True)
    assert jobs.train(config, tmp_path / "run") == [0]
    evaluations = records(tmp_path / "run", "eval_loss")
    assert [r["step"] for r in evaluations] == [*range(2, STEPS + 1, 2), STEPS]
    assert evaluations[-1]["eval_loss"] == pytest.approx(max(r["eval_loss"] for r in evaluations[:-1]))


@pytest.mark.parametrize(("world", "parallel"), RANKS)
def test_predictions_are_written_in_the_datas_order(tmp_path: Path, seen: Path, world: int, parallel: type) -> None:
    config = short(
        parallel=parallel(),
        evaluation=Evaluation(per_device_eval_batch_size=3, compute_metrics="tests.evaluation.parts.accuracy"),
        data=Data(train_dataset=PLAIN, predict_dataset=PLAIN),
        run=Run(seed=3, use_cpu=True, do_predict=True),
        callbacks={"diary": named("Diary")},
    )
    metrics = run(config, tmp_path / "run", world)
    found = load_file(tmp_path / "run" / "predictions.safetensors")
    assert found.keys() == {"predictions", "label_ids"}
    assert found["label_ids"].tolist() == [i % 10 for i in range(SAMPLES)]
    torch.testing.assert_close(found["predictions"], expected(tmp_path / "run"), rtol=1e-4, atol=1e-5)
    right = (found["predictions"].argmax(-1) == found["label_ids"]).double().mean()
    loss = nn.functional.cross_entropy(found["predictions"], found["label_ids"])
    assert metrics == pytest.approx({"test_loss": float(loss), "test_accuracy": float(right)}, rel=1e-5)
    speed = {"test_runtime", "test_samples_per_second", "test_steps_per_second"}
    assert speed <= records(tmp_path / "run", "test_loss")[0].keys()
    assert seen.with_suffix(".txt").read_text() == "predict 2\n" * world


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("world", [1, 2])
def test_targets_are_not_needed_to_predict(tmp_path: Path, keyed: bool, world: int) -> None:
    metric = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "num_classes": 10}
    trained = finished(tmp_path / "trained")
    config = only(
        data=Data(train_dataset=None, predict_dataset=named("Inputs", keyed=keyed)),
        evaluation=Evaluation(compute_metrics="tests.evaluation.parts.crash"),
        task=Classification(metrics={"accuracy": metric}),
        run=Run(seed=3, use_cpu=True, do_train=False, do_predict=True),
    )
    assert jobs.train(config, tmp_path / "run", world_size=world, resume=str(trained)) == [0] * world
    found = load_file(tmp_path / "run" / "predictions.safetensors")
    assert found.keys() == {"predictions"}
    torch.testing.assert_close(found["predictions"], expected(trained), rtol=1e-4, atol=1e-5)
    (record,) = records(tmp_path / "run", "test_runtime")
    assert {k for k in record if k.startswith("test_") and not k.endswith(SPEED)} == set()


def test_several_outputs_are_written_under_numbers(tmp_path: Path) -> None:
    config = short(
        model=named("Pair"),
        evaluation=Evaluation(),
        data=Data(train_dataset=PLAIN, predict_dataset=PLAIN),
        run=Run(seed=3, use_cpu=True, do_predict=True),
    )
    run(config, tmp_path / "run")
    found = load_file(tmp_path / "run" / "predictions.safetensors")
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "predictions.0": (SAMPLES, 5), "predictions.1": (SAMPLES, 5), "label_ids": (SAMPLES,),
    }  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, PREEMPTED), (signal.SIGINT, STOPPED)])
@pytest.mark.parametrize("world", [1, 2])
def test_a_signal_ends_a_pass_at_once(tmp_path: Path, number: int, code: int, world: int) -> None:
    config = only(
        data=Data(train_dataset=None, predict_dataset=named("Killing", number=int(number))),
        run=Run(seed=3, use_cpu=True, do_train=False, do_predict=True),
    )
    assert jobs.train(config, tmp_path / "run", world_size=world)[0] == code
    assert not (tmp_path / "run" / "predictions.safetensors").exists()


# Where a run without training writes ------------------------------------------------------------------------------


def test_auto_finds_the_run_that_was_trained(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    switches = ("run.do_train=false", "run.do_predict=true", "checkpoint.resume_from_checkpoint=auto")
    found = compose("data.predict_dataset._target_=tests.tiny.Augmented", *switches)
    config = found.config
    assert config is not None
    with pytest.raises(ConfigError, match="no run with this config under"):
        claim(found, config)
    trained = tmp_path / "outputs" / "day" / "then"
    run_directory.create(trained, exact=True)
    run_directory.begin(trained, config=compose().config, overrides=[], argv=[])
    run_directory.finish(trained, run_directory.Status.completed)
    before = (trained / "manifest.json").read_text()
    directory, resumed = claim(found, config)
    assert directory != trained
    assert not resumed
    assert config.checkpoint.resume_from_checkpoint == str(trained)
    assert (trained / "manifest.json").read_text() == before
    assert str(trained) in capsys.readouterr().err
