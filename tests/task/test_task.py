"""What a model is called with, where the loss comes from, and what evaluation gets."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.schema import model as model_schema
from trainer.schema import task as schema
from trainer.task import Task, make_task
from trainer.task.task import call

INPUT, CLASSES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 2, 0])


class Linear(nn.Linear):
    """Says what it was called with."""

    def __init__(self) -> None:
        super().__init__(4, 3)

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Any:
        self.labels = labels
        return super().forward(input)


class Own(nn.Module):
    """Returns what it is told to."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, **batch: Any) -> Any:
        self.batch = batch
        return self.output


def test_a_pair_calls_the_model_with_its_input() -> None:
    model, task = Linear(), make_task(schema.Classification())
    out = task.evaluate(model, (INPUT, CLASSES))
    assert out.targets is CLASSES
    torch.testing.assert_close(out.loss, F.cross_entropy(model(INPUT), CLASSES), rtol=0, atol=0)
    torch.testing.assert_close(task.loss(model, [INPUT, CLASSES]), out.loss, rtol=0, atol=0)
    assert int(task.num_items((INPUT, CLASSES))) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["labels", "label", "target"])
def test_a_dict_calls_the_model_with_what_forward_accepts(key: str) -> None:
    model = Linear()
    out = make_task(schema.Classification()).evaluate(model, {"input": INPUT, key: CLASSES, "id": [1]})
    assert out.targets is CLASSES
    assert model.labels is (CLASSES if key == "labels" else None)


def test_a_forward_that_accepts_anything_gets_everything() -> None:
    model = Own(INPUT)
    call(model, {"a": 1, "b": 2})
    assert model.batch == {"a": 1, "b": 2}


class Wrapper(nn.Module):
    """Passes everything on, as DDP and DeepSpeed do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def test_a_wrapper_is_looked_through() -> None:
    task = make_task(schema.Classification())
    for model in (Wrapper(Linear()), Wrapper(Wrapper(Linear()))):
        task.loss(model, {"input": INPUT, "label": CLASSES, "id": [1]})


LOSS, LOGITS = torch.tensor(7.0), INPUT[:, :3]


@pytest.mark.parametrize(
    "output",
    [
        {"loss": LOSS, "logits": LOGITS},
        SimpleNamespace(loss=LOSS, logits=LOGITS),
        (LOSS, LOGITS),
        (LOSS, LOGITS, "more"),
    ],
    ids=["mapping", "object", "tuple", "longer tuple"],
)
def test_the_models_own_loss_comes_first(output: Any) -> None:
    out = make_task(schema.Classification()).evaluate(Own(output), {"input": INPUT, "labels": CLASSES})
    assert (out.loss, out.predictions, out.targets) == (LOSS, LOGITS, CLASSES)


@pytest.mark.parametrize(
    "output",
    [LOGITS, {"logits": LOGITS}, {"loss": None, "logits": LOGITS}, SimpleNamespace(logits=LOGITS), (LOGITS, "state")],
    ids=["tensor", "mapping", "no loss", "object", "tuple"],
)
def test_else_the_tasks(output: Any) -> None:
    out = make_task(schema.Classification()).evaluate(Own(output), {"input": INPUT, "labels": CLASSES})
    assert out.predictions is LOGITS
    torch.testing.assert_close(out.loss, F.cross_entropy(LOGITS, CLASSES))


def test_what_cannot_be_called_is_said() -> None:
    task = make_task(schema.Regression())
    with pytest.raises(TypeError, match=r"Linear\.forward takes input, labels; the batch has none of these, only x, y"):
        task.loss(Linear(), {"x": INPUT, "y": INPUT})
    with pytest.raises(ValueError, match="no loss: Linear returned none"):
        task.loss(Linear(), {"input": INPUT, "y": INPUT})
    with pytest.raises(TypeError, match=r"a dict or an \(input, target\) pair, not Tensor"):
        task.loss(Linear(), INPUT)


def test_language_modeling_predicts_the_next_token() -> None:
    task = make_task(schema.LanguageModeling())
    ids = torch.randint(0, 9, (2, 6), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[1, 2:] = -100
    table = nn.Embedding(9, 9)
    batch = {"input": ids, "labels": labels}
    expected = [
        F.cross_entropy(table(ids[r, t]), ids[r, t + 1]) for r, t in [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0)]
    ]
    torch.testing.assert_close(task.loss(table, batch), torch.stack(expected).mean())
    assert int(task.num_items(batch)) == 6  # type: ignore[arg-type]
    batch["labels"] = torch.full_like(ids, -100)
    assert task.loss(table, batch).item() == 0.0
    assert int(task.num_items(batch)) == 0  # type: ignore[arg-type]
    assert task.num_items({"input": ids}) is None


def test_perplexity() -> None:
    task = make_task(schema.LanguageModeling())
    assert task.summarise({"loss": 2.0}) == {"perplexity": math.exp(2.0)}
    assert task.summarise({"loss": 1000.0}) == {"perplexity": math.inf}


def test_our_shift_is_transformers_shift() -> None:
    pytest.importorskip("transformers")
    from trainer.model.huggingface import causal_lm

    torch.manual_seed(0)
    config = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16, "n_positions": 8, "bos_token_id": 0}
    model = causal_lm(model_schema.HFCausalLM(config=config | {"eos_token_id": 0})).eval()
    ids = torch.randint(0, 16, (2, 8))
    task = make_task(schema.LanguageModeling())
    theirs = task.evaluate(model, {"input_ids": ids, "labels": ids})
    ours = make_task(schema.LanguageModeling()).criterion(theirs.predictions, ids)  # type: ignore[attr-defined]
    torch.testing.assert_close(theirs.loss, ours, rtol=1e-6, atol=0)


def test_regression_refuses_to_broadcast() -> None:
    task, model = make_task(schema.Regression()), nn.Linear(4, 1)
    torch.testing.assert_close(task.loss(model, (INPUT, INPUT[:, :1])), F.mse_loss(model(INPUT), INPUT[:, :1]))
    with pytest.raises(ValueError, match=r"output \(5, 1\) and target \(5,\)"):
        task.loss(model, (INPUT, INPUT[:, 0]))


@pytest.mark.parametrize("node", [schema.Classification, schema.Regression])
def test_metrics_are_new_each_time(node: Any) -> None:
    task = make_task(node(metrics={"mse": {"_target_": "torchmetrics.MeanSquaredError", "squared": False}}))
    first, second = task.metrics()["mse"], task.metrics()["mse"]
    assert isinstance(first, torchmetrics.MeanSquaredError)
    assert first is not second
    assert first.squared is False


class Least(Task):
    """A user's own task: loss is all it needs."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        result: Tensor = model(batch).mean() * self.factor
        return result


def make_least(factor: float) -> Least:
    return Least(factor)


def squared(output: Tensor, target: Tensor, factor: float = 1.0) -> Tensor:
    return factor * F.mse_loss(output, target)


@pytest.mark.parametrize("name", ["Least", "make_least"])
def test_a_users_own_task(name: str) -> None:
    task = make_task({"_target_": f"{__name__}.{name}", "factor": 2.0})
    model = nn.Linear(4, 1)
    out = task.evaluate(model, INPUT)
    torch.testing.assert_close(out.loss, model(INPUT).mean() * 2)
    assert (out.predictions, out.targets, task.metrics(), task.summarise({}), task.num_items(INPUT)) == (
        None,
        None,
        {},
        {},
        None,
    )


@pytest.mark.parametrize(
    ("node", "factor"),
    [
        ({"_target_": "torch.nn.MSELoss"}, 1.0),
        ({"_target_": "torch.nn.functional.mse_loss"}, 1.0),
        ({"_target_": f"{__name__}.squared", "factor": 3.0}, 3.0),
    ],
)
def test_a_bare_loss(node: Any, factor: float) -> None:
    model = nn.Linear(4, 4)
    loss = make_task(node).loss(model, (INPUT, INPUT))
    torch.testing.assert_close(loss, factor * F.mse_loss(model(INPUT), INPUT))


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"collections\.Counter.*neither"):
        make_task({"_target_": "collections.Counter"})
