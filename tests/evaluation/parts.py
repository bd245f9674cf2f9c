"""Functions, data sets and models that the runs of test_evaluate and test_inference name, and these runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests import jobs
from tests.tiny import Augmented, Still
from tests.train.test_session import records, still
from trainer.callbacks.callback import Callback
from trainer.evaluation.predictions import EvalPrediction
from trainer.schema import Config
from trainer.schema.evaluation import Evaluation, IntervalStrategy
from trainer.schema.parallel import DDP, FSDP
from trainer.schema.train import Train
from trainer.state import Control, State
from trainer.task import Output, Task

SPEED = ("_runtime", "_per_second")


def _seen() -> Path:
    return Path(os.environ["TEST_SEEN"])


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


def named(name: str, **keys: Any) -> dict[str, Any]:
    return {"_target_": f"tests.evaluation.parts.{name}", **keys}


def once(**fields: Any) -> Evaluation:
    """One evaluation, after the last step; 49 samples in batches of 3."""
    usual = {"eval_strategy": IntervalStrategy.steps, "eval_steps": 99, "per_device_eval_batch_size": 3}
    fields = {**usual, **fields}
    if "compute_metrics" in fields:
        fields["compute_metrics"] = f"tests.evaluation.parts.{fields['compute_metrics']}"
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
    logits: Tensor = model(Augmented(augment=False).inputs)
    return logits.detach()


RANKS = [(1, DDP), (2, DDP), (2, FSDP)]


class Tokens(Task):
    """The loss of each token's own logits."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss = self.evaluate(model, batch).loss
        assert loss is not None
        return loss

    def evaluate(self, model: nn.Module, batch: Any) -> Output:
        logits, labels = model(batch["input_ids"]), batch["labels"]
        return Output(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits, labels)


class Script:
    """The metric's values, one evaluation after the other."""

    def __init__(self) -> None:
        self.values = iter([1.0, 5.0, 9.0, 3.0, 3.0, 3.0, 3.0])

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        return {"value": next(self.values)}


class Killing(Inputs):
    """Sends its process a signal in the middle of a pass."""

    def __init__(self, number: int) -> None:
        super().__init__(keyed=False)
        self.number = number

    def __getitem__(self, index: int) -> Any:
        if index == 20:
            os.kill(os.getpid(), self.number)
        assert index < 30, "the pass went on"
        return super().__getitem__(index)
