"""Evaluation and prediction in this process, with a plain module and no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.evaluation.parts import Inputs, accuracy, named, once, short
from tests.tiny import PLAIN, SAMPLES, Augmented, Still
from trainer.evaluation.evaluator import make_evaluator
from trainer.rng import snapshot, touched
from trainer.schema import Config
from trainer.schema.data import Data
from trainer.schema.precision import Precision
from trainer.task.criterion import Criterion

LABELS = [i % 10 for i in range(SAMPLES)]


@pytest.fixture
def model() -> Still:
    torch.manual_seed(1)
    return Still()


def logits(model: Still) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model.eval()(Augmented(augment=False).inputs)
    model.train()
    return output


def without_data(**sections: Any) -> Config:
    return short(data=Data(train_dataset=named("Missing"), eval_dataset=None), evaluation=once(), **sections)


def test_objects_are_evaluated(model: Still, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = snapshot()
    evaluator = make_evaluator(without_data(), model, eval_dataset=Augmented(augment=False), compute_metrics=accuracy)
    metrics = evaluator.evaluate()
    expected = logits(model)
    assert metrics["eval_loss"] == pytest.approx(F.cross_entropy(expected, torch.tensor(LABELS)).item())
    assert metrics["eval_accuracy"] == (expected.argmax(-1) == torch.tensor(LABELS)).double().mean().item()
    assert metrics["eval_runtime"] > 0
    assert model.training
    assert not touched(state)
    assert not list(tmp_path.iterdir())


def test_what_the_config_names_is_evaluated(model: Still) -> None:
    config = short(
        data=Data(train_dataset=named("Missing"), eval_dataset=PLAIN), evaluation=once(compute_metrics="accuracy")
    )
    by_name = make_evaluator(config, model).evaluate()
    objects = make_evaluator(
        without_data(), model, eval_dataset=Augmented(augment=False), compute_metrics=accuracy
    ).evaluate()
    assert by_name.keys() == objects.keys()
    assert by_name["eval_loss"] == objects["eval_loss"]


def test_named_datasets(model: Still) -> None:
    sets = {"whole": Augmented(augment=False), "half": Augmented(augment=False, samples=25)}
    metrics = make_evaluator(without_data(), model, eval_dataset=sets).evaluate()
    assert {"eval_whole_loss", "eval_half_loss"} <= metrics.keys()


def test_predictions_are_returned_in_the_datasets_order(model: Still) -> None:
    data = Augmented(augment=False)
    evaluator = make_evaluator(without_data(), model, predict_dataset=data, compute_metrics=accuracy)
    predictions, label_ids, metrics = evaluator.predict()
    assert isinstance(predictions, np.ndarray)
    np.testing.assert_allclose(predictions, logits(model), rtol=1e-4, atol=1e-5)
    assert label_ids.tolist() == LABELS
    assert metrics["test_accuracy"] == (predictions.argmax(-1) == label_ids).mean()


def test_targets_are_not_needed_to_predict(model: Still) -> None:
    found = make_evaluator(without_data(), model, predict_dataset=Inputs(keyed=False)).predict()
    assert found.predictions.shape == (SAMPLES, 10)
    assert found.label_ids is None
    assert not any(name.endswith("loss") for name in found.metrics)


def test_the_forward_runs_in_the_configs_precision_and_is_left_as_it_was(model: Still) -> None:
    config = without_data(precision=Precision(bf16=True))
    predictions = make_evaluator(config, model, predict_dataset=Augmented(augment=False)).predict().predictions
    exact = logits(model)
    assert "forward" not in vars(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits(model)
    assert half.dtype == torch.bfloat16
    assert predictions.dtype == np.float32
    np.testing.assert_allclose(predictions, half.float(), atol=0.05)
    assert not np.allclose(predictions, exact, atol=1e-6)


def test_a_task_and_a_collation_may_be_objects(model: Still) -> None:
    def collate(items: list[Any]) -> Any:
        inputs, targets = zip(*items, strict=True)
        return torch.stack(inputs) * 0, torch.tensor(targets)

    task = Criterion(lambda output, target: output.sum() * 0 + 7)
    data = Augmented(augment=False)
    found = make_evaluator(
        without_data(), model, eval_dataset=data, predict_dataset=data, task=task, collate_fn=collate
    )
    assert found.evaluate()["eval_loss"] == 7
    assert np.ptp(found.predict().predictions, axis=0).max() < 1e-6, "all inputs are 0"


@pytest.mark.parametrize("what", ["evaluate", "predict"])
def test_a_dataset_is_needed(model: Still, what: str) -> None:
    with pytest.raises(ValueError, match=r"needs data\.(eval|predict)_dataset"):
        getattr(make_evaluator(without_data(), model), what)()


def test_an_empty_dataset_is_refused(model: Still) -> None:
    with pytest.raises(ValueError, match="eval_dataset is empty"):
        make_evaluator(without_data(), model, eval_dataset=[]).evaluate()
