"""Evaluation and prediction in whole runs: what compute_metrics gets, what is written, the same at any number of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests import jobs
from tests.blocks import SAMPLES, Augmented
from tests.jobs import STEPS, make_config
from tests.test_runner import PLAIN, Still, records, still
from trainer import run_directory
from trainer.compose import Composition
from trainer.events import Callback
from trainer.predictions import PADDING, Collector, EvalPrediction, pad_and_concatenate
from trainer.problems import ConfigError
from trainer.resume import claim
from trainer.schema import Config
from trainer.schema.callbacks import EarlyStopping
from trainer.schema.checkpoint import Checkpoint, SaveStrategy
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation, IntervalStrategy, MetricInput
from trainer.schema.optim import SGD
from trainer.schema.parallel import DDP, FSDP
from trainer.schema.run import Run
from trainer.schema.task import Classification
from trainer.schema.train import Train
from trainer.state import Control, State
from trainer.task import Output, Task

Compose = Callable[..., Composition]
SPEED = ("_runtime", "_per_second")


# What the runs below name -----------------------------------------------------------------------------------------


def _seen() -> Path:
    return Path(os.environ["E2_SEEN"])


def keep(prediction: EvalPrediction) -> dict[str, Any]:
    """Writes down all it gets."""
    torch.save([prediction.predictions, prediction.label_ids, prediction.inputs, prediction.losses], _seen())
    return {"count": np.float64(1), "eval_named": torch.tensor(2.0), "per_class": {"a": np.int64(3)}}


def accuracy(prediction: EvalPrediction) -> dict[str, Any]:
    predictions, labels = prediction
    return {"accuracy": (predictions.argmax(-1) == labels).mean()}


class Counted:
    """Accuracy, batch by batch."""

    def __init__(self) -> None:
        self.right: list[float] = []
        self.calls = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, Any]:
        assert isinstance(prediction.predictions, Tensor)
        self.right += (prediction.predictions.argmax(-1) == prediction.label_ids).tolist()
        self.calls += 1
        if not compute_result:
            return {"accuracy": -1.0}
        result = {"accuracy": sum(self.right) / len(self.right), "calls": self.calls}
        self.__init__()  # type: ignore[misc]
        return result


def crash(prediction: EvalPrediction) -> dict[str, Any]:
    raise AssertionError("compute_metrics was called")


class Missing(Dataset[Any]):
    """Stands for a data set that is not there."""

    def __init__(self) -> None:
        raise FileNotFoundError("this data set is not here")


class Inputs(Augmented):
    """Without targets."""

    def __init__(self, keyed: bool) -> None:
        super().__init__(augment=False)
        self.keyed = keyed

    def __getitem__(self, index: int) -> Any:
        return {"x": self.inputs[index]} if self.keyed else self.inputs[index]


class Words(Dataset[dict[str, Tensor]]):
    """Sequences of 1 to 7 tokens; batches of 3 hold different lengths, and so do the ranks."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.full((1 + index * 5 % 7,), index % 11)
        return {"input_ids": ids, "labels": ids}


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.table(input_ids)
        return output


class Boxes(Task):
    """Predictions of a detector: for each sample a dict with as many boxes as it found."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module, batch: Any) -> Output:
        found = [{"boxes": torch.full((int(y) % 3, 4), float(y)), "name": f"class {int(y)}"} for y in batch[1]]
        return Output(self.loss(model, batch), found, batch[1])  # type: ignore[arg-type]


class Pair(Still):
    """Two outputs, as transformers models without `logits` have."""

    def forward(self, x: Tensor) -> Any:
        output = super().forward(x)
        return {"loss": output.square().mean(), "start": output[:, :5], "end": output[:, 5:], "past_key_values": None}


class Diary(Callback):
    def on_evaluate(self, state: State, control: Control, metrics: dict[str, float]) -> None:
        self._note("evaluate", state)

    def on_predict(self, state: State, control: Control, metrics: dict[str, float]) -> None:
        self._note("predict", state)

    def _note(self, name: str, state: State) -> None:
        with _seen().with_suffix(".txt").open("a") as file:
            file.write(f"{name} {state.step}\n")


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `keep` writes."""
    monkeypatch.setenv("E2_SEEN", str(tmp_path / "seen.pt"))
    return tmp_path / "seen.pt"


def named(name: str, **keys: Any) -> dict[str, Any]:
    return {"_target_": f"tests.test_evaluate.{name}", **keys}


def once(**fields: Any) -> Evaluation:
    """One evaluation, after the last step; 49 samples in batches of 3."""
    fields = {"eval_strategy": IntervalStrategy.steps, "eval_steps": 99, "per_device_eval_batch_size": 3} | fields
    if "compute_metrics" in fields:
        fields["compute_metrics"] = f"tests.test_evaluate.{fields['compute_metrics']}"
    return Evaluation(**fields)


def short(**sections: Any) -> Config:
    """Two steps, without noise."""
    return still(**({"train": Train(per_device_train_batch_size=4, max_steps=2), "parallel": DDP()} | sections))


def run(config: Config, directory: Path, world: int = 1) -> dict[str, Any]:
    """The run's last evaluation or prediction, without what a clock gave."""
    assert jobs.train(config, directory, world_size=world) == [0] * world
    last = [r for r in records(directory, "step") if any(k.startswith(("eval_", "test_")) for k in r)][-1]
    return {k: v for k, v in last.items() if k.startswith(("eval_", "test_")) and not k.endswith(SPEED)}


def expected(directory: Path) -> Tensor:
    """The logits of the run's final weights."""
    model = Still().eval()
    model.load_state_dict(load_file(directory / "model" / "model.safetensors"))
    return model(Augmented(augment=False).inputs).detach()


RANKS = [(1, DDP), (2, DDP), (2, FSDP)]


# compute_metrics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "parallel"), RANKS)
@pytest.mark.parametrize("every", [None, 2])
def test_compute_metrics_gets_every_sample_once_and_in_order(
    tmp_path: Path, seen: Path, world: int, parallel: type, every: int | None
) -> None:
    evaluation = once(
        compute_metrics="keep",
        include_for_metrics=[MetricInput.inputs, MetricInput.loss],
        eval_accumulation_steps=every,
    )
    metrics = run(short(evaluation=evaluation, parallel=parallel()), tmp_path / "run", world)
    assert {k: v for k, v in metrics.items() if k != "eval_loss"} == {
        "eval_count": 1.0, "eval_named": 2.0, "eval_per_class": {"a": 3},
    }  # fmt: skip
    predictions, labels, inputs, losses = torch.load(seen, weights_only=False)
    assert all(isinstance(array, np.ndarray) for array in (predictions, labels, inputs, losses))
    assert labels.tolist() == [i % 10 for i in range(SAMPLES)]
    np.testing.assert_array_equal(inputs, Augmented(augment=False).inputs.numpy())
    np.testing.assert_allclose(predictions, expected(tmp_path / "run"), rtol=1e-4, atol=1e-5)
    assert losses.shape == (SAMPLES,)
    assert losses.mean() == pytest.approx(metrics["eval_loss"])
    assert losses[:3].tolist() == [losses[0]] * 3


@pytest.mark.parametrize("world", [1, 2])
def test_ragged_batches_are_padded(tmp_path: Path, seen: Path, world: int) -> None:
    words = named("Words")
    config = short(
        model=named("Table"),
        task={"_target_": "torch.nn.CrossEntropyLoss"},
        data=Data(train_dataset=PLAIN, eval_dataset=words),
        evaluation=once(compute_metrics="keep", include_for_metrics=[MetricInput.inputs]),
        run=Run(seed=3, use_cpu=True, do_train=False, do_eval=True),
    )
    config.task = named("Tokens")
    run(config, tmp_path / "run", world)
    predictions, labels, inputs, losses = torch.load(seen, weights_only=False)
    assert losses is None
    assert labels.shape == inputs.shape == (23, 7)
    assert predictions.shape == (23, 7, 11)
    for i, row in enumerate(labels):
        length = 1 + i * 5 % 7
        assert row.tolist() == [i % 11] * length + [PADDING] * (7 - length)
        longest = max(1 + j * 5 % 7 for j in range(i // 3 * 3, min(23, i // 3 * 3 + 3)))
        assert (predictions[i, longest:] == PADDING).all()
        assert (predictions[i, :length] != PADDING).all()


class Tokens(Task):
    """The loss of each token's own logits."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss = self.evaluate(model, batch).loss
        assert loss is not None
        return loss

    def evaluate(self, model: nn.Module, batch: Any) -> Output:
        logits, labels = model(batch["input_ids"]), batch["labels"]
        return Output(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits, labels)


def test_batches_may_stay_apart(tmp_path: Path, seen: Path) -> None:
    run(short(evaluation=once(compute_metrics="keep", eval_do_concat_batches=False)), tmp_path / "run")
    predictions, labels, *_ = torch.load(seen, weights_only=False)
    assert [len(batch) for batch in predictions] == [len(batch) for batch in labels] == [3] * 16 + [1]
    np.testing.assert_allclose(np.concatenate(predictions), expected(tmp_path / "run"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("world", [1, 2])
def test_batch_eval_metrics_gives_the_whole_metric_and_keeps_nothing(tmp_path: Path, world: int) -> None:
    whole = run(short(evaluation=once(compute_metrics="accuracy")), tmp_path / "whole", world)
    evaluation = once(compute_metrics="Counted", batch_eval_metrics=True, eval_strategy=IntervalStrategy.epoch)
    config = short(evaluation=evaluation, train=Train(per_device_train_batch_size=4, max_steps=2))
    config.run = Run(seed=3, use_cpu=True, do_eval=True)
    by_batch = run(config, tmp_path / "batches", world)
    assert by_batch.pop("eval_calls") == {1: 17, 2: 9}[world]
    assert by_batch == pytest.approx(whole)


def test_tuples_of_outputs_are_kept_apart(tmp_path: Path, seen: Path) -> None:
    config = short(model=named("Pair"), evaluation=once(compute_metrics="keep"))
    run(config, tmp_path / "run")
    predictions, *_ = torch.load(seen, weights_only=False)
    assert isinstance(predictions, tuple)
    assert [array.shape for array in predictions] == [(SAMPLES, 5), (SAMPLES, 5)]


@pytest.mark.parametrize("world", [1, 2])
def test_predictions_may_be_objects(tmp_path: Path, seen: Path, world: int) -> None:
    config = short(
        task=named("Boxes"),
        evaluation=once(compute_metrics="keep", eval_use_gather_object=True),
        data=Data(train_dataset=PLAIN, eval_dataset=PLAIN, predict_dataset=PLAIN),
        run=Run(seed=3, use_cpu=True, do_predict=True),
    )
    run(config, tmp_path / "run", world)
    predictions, labels, *_ = torch.load(seen, weights_only=False)
    assert [p["name"] for p in predictions] == [f"class {i % 10}" for i in range(SAMPLES)]
    assert [p["boxes"].shape for p in predictions] == [(i % 10 % 3, 4) for i in range(SAMPLES)]
    assert labels.tolist() == [i % 10 for i in range(SAMPLES)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == labels.tolist()
    assert lines[2] == {"prediction": {"boxes": [[2.0] * 4] * 2, "name": "class 2"}, "label": 2}


def test_objects_need_the_switch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = short(task=named("Boxes"), evaluation=once(compute_metrics="keep"))
    assert jobs.train(config, tmp_path / "run") == [1]
    assert "fix: evaluation.eval_use_gather_object=true" in capfd.readouterr().err


def test_only_so_much_is_held_on_the_device() -> None:
    parts = [{"predictions": torch.full((2, 3), float(i)), "label_ids": None} for i in range(7)]
    collector = Collector()
    for i, part in enumerate(parts, 1):
        collector.add(part)
        if i % 2 == 0:
            collector.flush()
            assert collector.held == []
            assert len(collector.batches) == i
    whole = collector.result()
    assert whole["label_ids"] is None
    assert whole["predictions"][:, 0].tolist() == [float(i // 2) for i in range(14)]


@pytest.mark.parametrize(("first", "second"), [((2, 3), (3, 5)), ((2,), (3,)), ((2, 4, 2), (1, 2, 2))])
def test_padding_is_hugging_faces(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    pytest.importorskip("transformers")
    from transformers.trainer_pt_utils import nested_concat

    one, other = np.random.rand(*first), np.random.rand(*second)
    np.testing.assert_array_equal(pad_and_concatenate([one, other]), nested_concat(one, other))


def test_the_loss_alone(tmp_path: Path) -> None:
    metric = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "num_classes": 10}
    full = run(short(task=Classification(metrics={"accuracy": metric}), evaluation=once()), tmp_path / "full")
    assert full.keys() == {"eval_loss", "eval_accuracy"}
    config = short(
        task=Classification(metrics={"accuracy": metric}),
        evaluation=once(prediction_loss_only=True, compute_metrics="crash"),
        data=Data(train_dataset=PLAIN, eval_dataset=PLAIN, predict_dataset=PLAIN),
        run=Run(seed=3, use_cpu=True, do_predict=True),
    )
    assert run(config, tmp_path / "loss") == {"test_loss": full["eval_loss"]}
    assert not list((tmp_path / "loss").glob("predictions*"))


# Several sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2])
def test_named_sets(tmp_path: Path, world: int) -> None:
    sets = {"plain": PLAIN, "half": named("Half")}
    data = Data(train_dataset=PLAIN, eval_dataset=sets)
    checkpoint = Checkpoint(save_strategy=SaveStrategy.best, metric_for_best_model="eval_half_loss")
    config = short(data=data, evaluation=once(compute_metrics="accuracy"), checkpoint=checkpoint)
    metrics = run(config, tmp_path / "run", world)
    assert metrics.keys() == {f"eval_{name}_{metric}" for name in sets for metric in ("loss", "accuracy")}
    single = short(evaluation=once(compute_metrics="accuracy"))
    alone = run(single, tmp_path / "single", world)
    assert {k: metrics[k.replace("eval_", "eval_plain_")] for k in alone} == alone
    best = json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]["best"]
    assert best == {"metric": "eval_half_loss", "value": metrics["eval_half_loss"], "step": 2}


def test_named_sets_without_a_best_one(tmp_path: Path) -> None:
    data = Data(train_dataset=PLAIN, eval_dataset={"plain": PLAIN})
    assert run(short(data=data, evaluation=once()), tmp_path / "run").keys() == {"eval_plain_loss"}
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]["best"] is None


class Half(Augmented):
    def __init__(self) -> None:
        super().__init__(augment=False)

    def __len__(self) -> int:
        return 25


# The switches -----------------------------------------------------------------------------------------------------


def finished(directory: Path, **checkpoint: Any) -> Path:
    """A run of 14 steps with evaluations and checkpoints at 4, 8 and 12."""
    assert jobs.train(still(checkpoint=Checkpoint(save_steps=4, **checkpoint)), directory) == [0]
    return directory


def only(*, wish: str | None, **sections: Any) -> Config:
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
    config = only(wish=wish)
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
    assert jobs.train(only(wish=wish), tmp_path / "run", resume=wish) == [0]
    assert [r["step"] for r in records(tmp_path / "run", "eval_loss")] == [STEPS]


def test_auto_evaluates_what_is_in_its_own_directory(tmp_path: Path) -> None:
    trained = finished(tmp_path / "trained")
    before = records(trained, "step")
    assert jobs.train(only(wish="auto"), trained, resume="auto") == [0]
    *others, last = records(trained, "step")
    assert others == before
    assert last["eval_loss"] == records(trained, "eval_loss")[-2]["eval_loss"]


def test_fresh_weights_may_be_evaluated(tmp_path: Path) -> None:
    assert jobs.train(only(wish=None), tmp_path / "run") == [0]
    config = short(evaluation=once(eval_on_start=True, per_device_eval_batch_size=8))
    assert jobs.train(config, tmp_path / "start") == [0]
    assert (
        records(tmp_path / "run", "eval_loss")[0]["eval_loss"]
        == records(tmp_path / "start", "eval_loss")[0]["eval_loss"]
    )


def test_no_checkpoint_is_an_error_without_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.train(only(wish="auto"), tmp_path / "run", resume="auto") == [1]
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
        evaluation=Evaluation(per_device_eval_batch_size=3, compute_metrics="tests.test_evaluate.accuracy"),
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
        wish=None,
        data=Data(train_dataset=None, predict_dataset=named("Inputs", keyed=keyed)),
        evaluation=Evaluation(compute_metrics="tests.test_evaluate.crash"),
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


# Where a run without training writes ------------------------------------------------------------------------------


def test_auto_finds_the_run_that_was_trained(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    switches = ("run.do_train=false", "run.do_predict=true", "checkpoint.resume_from_checkpoint=auto")
    found = compose("data.predict_dataset._target_=tests.blocks.Augmented", *switches)
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


# The best model, and when to evaluate -----------------------------------------------------------------------------


def test_a_best_step_that_was_not_saved_leaves_the_one_before(tmp_path: Path) -> None:
    """Evaluations at 2, 4, 6 ..., checkpoints at 4, 8, 12 and 14: the loss peaks where nothing is saved."""
    checkpoint = Checkpoint(save_steps=4, load_best_model_at_end=True, metric_for_best_model="value")
    config = still(checkpoint=checkpoint, evaluation=once(eval_steps=2, compute_metrics="Script"))
    assert jobs.train(config, tmp_path / "run") == [0]
    result = json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]
    assert result["best"] == {"metric": "eval_value", "value": 9.0, "step": 6}
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    saved = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-4" / "rank-00000.safetensors")
    assert all(torch.equal(exported[name], saved[f"model/{name}"]) for name in exported)


class Script:
    """The metric's values, one evaluation after the other."""

    def __init__(self) -> None:
        self.values = iter([1.0, 5.0, 9.0, 3.0, 3.0, 3.0, 3.0])

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        return {"value": next(self.values)}


def test_patience_3_on_a_flat_metric_stops_at_evaluation_4(tmp_path: Path) -> None:
    config = still(
        optim=SGD(learning_rate=0.0),
        evaluation=once(eval_steps=1),
        callbacks={"early_stopping": EarlyStopping(early_stopping_patience=3)},
    )
    assert jobs.train(config, tmp_path / "run") == [0]
    assert [r["step"] for r in records(tmp_path / "run", "eval_loss")] == [1, 2, 3, 4]


WHEN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "never": ({"eval_strategy": IntervalStrategy.no}, []),
    "every 4 and the last": ({"eval_steps": 4}, [4, 8, 12, 14]),
    "a share": ({"eval_steps": 0.3}, [5, 10, 14]),
    "epochs": ({"eval_strategy": IntervalStrategy.epoch}, [7, 14]),
    "on start": ({"eval_steps": 7, "eval_on_start": True}, [0, 7, 14]),
    "only on start": ({"eval_strategy": IntervalStrategy.no, "eval_on_start": True}, [0]),
    "after 8 steps": ({"eval_steps": 4, "eval_delay": 8}, [8, 12, 14]),
    "after an epoch and a half": ({"eval_strategy": IntervalStrategy.epoch, "eval_delay": 1.5}, [14]),
    "as often as logs": ({"eval_steps": None}, [2, 4, 6, 8, 10, 12, 14]),
}


@pytest.mark.parametrize("when", WHEN)
def test_when_a_run_evaluates(tmp_path: Path, when: str) -> None:
    fields, steps = WHEN[when]
    assert jobs.train(still(evaluation=once(**fields)), tmp_path / "run") == [0]
    assert [r["step"] for r in records(tmp_path / "run", "eval_loss")] == steps


# Rules ------------------------------------------------------------------------------------------------------------

KEEP = "evaluation.compute_metrics=tests.test_evaluate.keep"
SETS = [f"data.eval_dataset.{name}._target_=tests.blocks.Augmented" for name in "ab"]
BEST = ["checkpoint.save_strategy=best", "evaluation.eval_strategy=steps"]
CASES: list[tuple[list[str], str, str]] = [
    (["run.do_train=false"], "leaves nothing to do", "run.do_eval=true"),
    (["run.do_predict=true"], "needs data.predict_dataset, which is null", "run.do_predict=false"),
    (
        ["run.do_eval=true", "data.eval_dataset=null", "evaluation.eval_strategy=no"],
        "needs data.eval_dataset, which is null",
        "run.do_eval=false",
    ),
    (["data.train_dataset=null", "run.do_eval=true"], "needs data.train_dataset", "run.do_train=false"),
    (["evaluation.batch_eval_metrics=true"], "needs evaluation.compute_metrics", "evaluation.batch_eval_metrics=false"),
    (["evaluation.include_for_metrics=[inputs]"], "needs evaluation.compute_metrics", KEEP),
    ([KEEP, "evaluation.prediction_loss_only=true"], "needs predictions", "evaluation.compute_metrics=null"),
    (
        [*BEST, "checkpoint.metric_for_best_model=accuracy"],
        "no evaluation gives this metric; allowed: loss, perplexity",
        "checkpoint.metric_for_best_model=eval_perplexity",
    ),
    ([*BEST, *SETS], "must name one metric", "checkpoint.metric_for_best_model=eval_b_loss"),
    ([*BEST, *SETS, "checkpoint.metric_for_best_model=loss"], "allowed: a_loss, a_perplexity", KEEP),
    (["evaluation.compute_metrics=os.system"], "may not be named", KEEP),
    (["data.eval_dataset.a._target_=tests.blocks.Augmented", "data.eval_dataset.b.c=1"], "b (command line): has no _target_", "data.eval_dataset.b._target_=tests.blocks.Augmented"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "line", "cure"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_rule(compose: Compose, overrides: list[str], line: str, cure: str) -> None:
    found = [str(p) for p in compose(*overrides).problems]
    assert len(found) == 1, found
    assert line in found[0]
    given = {o.partition("=")[0]: o for o in [*overrides, *cure.split()]}
    assert not compose(*given.values()).problems


@pytest.mark.parametrize(("name", "problem"), [("Counted", None), ("keep", "takes no argument compute_result")])
def test_a_function_for_batches_takes_compute_result(compose: Compose, name: str, problem: str | None) -> None:
    from trainer.targets import check_calls

    config = compose(
        f"evaluation.compute_metrics=tests.test_evaluate.{name}", "evaluation.batch_eval_metrics=true"
    ).config
    assert config is not None
    found = [str(p) for p in check_calls(config)]
    assert [problem in line for line in found] == [True] if problem else not found
