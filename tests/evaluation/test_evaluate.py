"""Evaluation in whole runs: what compute_metrics gets, several sets, the best model; with one rank and with two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import jobs
from tests.evaluation.parts import RANKS, expected, named, once, run, short
from tests.tiny import PLAIN, SAMPLES, Augmented
from tests.train.test_session import records, still
from trainer.evaluation.predictions import Collector, pad_and_concatenate
from trainer.schema.callbacks import EarlyStopping
from trainer.schema.checkpoint import Checkpoint, SaveStrategy
from trainer.schema.data import Data
from trainer.schema.evaluation import IntervalStrategy, MetricInput
from trainer.schema.optim import SGD
from trainer.schema.run import Run
from trainer.schema.task import IGNORE_INDEX, Classification
from trainer.schema.train import Train


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `keep` and the diary write."""
    monkeypatch.setenv("TEST_SEEN", str(tmp_path / "seen.pt"))
    return tmp_path / "seen.pt"


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
        assert row.tolist() == [i % 11] * length + [IGNORE_INDEX] * (7 - length)
        longest = max(1 + j * 5 % 7 for j in range(i // 3 * 3, min(23, i // 3 * 3 + 3)))
        assert (predictions[i, longest:] == IGNORE_INDEX).all()
        assert (predictions[i, :length] != IGNORE_INDEX).all()


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


@pytest.mark.parametrize("name", ["MulticlassAccuracy", "MulticlassCalibrationError"])
def test_a_rank_without_samples_takes_part(tmp_path: Path, name: str) -> None:
    """Of a metric with sums, and of one with lists, which that rank leaves empty."""
    metrics = {"metric": {"_target_": f"torchmetrics.classification.{name}", "num_classes": 10}}
    data = Data(train_dataset=PLAIN, eval_dataset=PLAIN | {"samples": 2})
    config = short(task=Classification(metrics=metrics), data=data, evaluation=once(compute_metrics="accuracy"))
    config.run = Run(seed=3, use_cpu=True, do_train=False, do_eval=True)
    one, two = (run(config, tmp_path / str(world), world) for world in (1, 2))
    assert one.keys() == {"eval_loss", "eval_metric", "eval_accuracy"}
    assert one == pytest.approx(two, rel=1e-3)


# Several sets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2])
def test_named_sets(tmp_path: Path, world: int) -> None:
    sets = {"plain": PLAIN, "half": PLAIN | {"samples": 25}}
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
