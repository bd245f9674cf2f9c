"""Smaller fields, by their effect in whole runs: smoothing, columns, targets, formats of evaluation, resuming, logs."""

from __future__ import annotations

import json
import logging
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from tests import jobs
from tests.jobs import PREEMPTED, make_config
from tests.tiny import Blocks
from tests.train.test_resume import assert_same, killed_at
from trainer.callbacks.callback import Callback
from trainer.data.batches import BatchLayout
from trainer.data.train_data import TrainData
from trainer.launch import rank as one_rank
from trainer.logging.jsonl import read
from trainer.precision import full_eval
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation
from trainer.schema.logging import Logging, LogLevel
from trainer.schema.parallel import DDP
from trainer.schema.precision import Precision
from trainer.schema.run import Run
from trainer.schema.task import Classification, LanguageModeling
from trainer.schema.train import NanPolicy, Train
from trainer.state import Control, State
from trainer.task import make_task
from trainer.train.session import Ended

CPU = torch.device("cpu")

# Label smoothing --------------------------------------------------------------------------------------------------


def smoothed(logits: Tensor, labels: Tensor, e: float) -> Tensor:
    """Hugging Face's LabelSmoother, by its formula."""
    log_p = F.log_softmax(logits, dim=-1)
    kept = labels != -100
    nll = -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (((1 - e) * nll + e * -log_p.mean(-1)) * kept).sum() / kept.sum()


def test_smoothing_of_classes() -> None:
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    task = make_task(Classification(), label_smoothing=0.2)
    loss = task.loss(nn.Identity(), (logits, labels))
    assert torch.allclose(loss, smoothed(logits, labels, 0.2))
    assert torch.allclose(task.evaluate(nn.Identity(), (logits, labels)).loss, loss)
    assert not torch.allclose(make_task(Classification()).loss(nn.Identity(), (logits, labels)), loss)


class OwnLoss(nn.Module):
    """Returns a loss of its own when it is given labels, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.randn(2, 7, 5)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        return {"logits": self.logits} | ({} if labels is None else {"loss": torch.tensor(123.0)})


def test_smoothing_shifts_ignores_and_takes_the_labels_from_the_model() -> None:
    model, labels = OwnLoss(), torch.randint(5, (2, 7))
    labels[0, 3:5] = -100
    batch = {"input_ids": labels, "labels": labels}
    assert make_task(LanguageModeling()).loss(model, batch) == 123
    loss = make_task(LanguageModeling(), label_smoothing=0.1).loss(model, batch)
    assert torch.allclose(loss, smoothed(model.logits[:, :-1], labels[:, 1:], 0.1))


def test_smoothing_agrees_with_transformers() -> None:
    pt_utils = pytest.importorskip("transformers.trainer_pt_utils")
    model, labels = OwnLoss(), torch.randint(5, (2, 7))
    theirs = pt_utils.LabelSmoother(epsilon=0.3)({"logits": model.logits}, labels, shift_labels=True)
    ours = make_task(LanguageModeling(), label_smoothing=0.3).loss(model, {"input_ids": labels, "labels": labels})
    assert torch.allclose(ours, theirs)


# Columns and targets ----------------------------------------------------------------------------------------------


class Table(Dataset[dict[str, Any]]):
    """Items with a column that no tensor can be made of."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.full((97,), index / 16), "y": index % 10, "note": {"text": [None]}, "extra": index}


class Sees(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Blocks()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


def table(**data: Any) -> Any:
    return make_config(
        model={"_target_": "tests.train.test_fields.Sees"},
        data=Data(train_dataset={"_target_": "tests.train.test_fields.Table"}, label_names=["y"], **data),
        evaluation=Evaluation(),
        train=Train(per_device_train_batch_size=4, max_steps=3),
    )


def test_unused_columns_stay_out_and_targets_have_names(tmp_path: Path) -> None:
    assert jobs.train(table(), tmp_path / "run") == [0]
    assert jobs.train(table(remove_unused_columns=False), tmp_path / "all") == [1]  # None cannot be collated


def test_several_targets_make_a_tuple() -> None:
    task = make_task({"_target_": "tests.train.test_fields.distance"}, label_names=["a", "b"])
    batch = {"input": torch.zeros(3), "a": torch.ones(3), "b": torch.full((3,), 2.0)}
    assert task.loss(nn.Identity(), batch) == 3
    assert task.columns(nn.Identity()) == {"input", "a", "b"}  # type: ignore[attr-defined]


def distance(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    return sum(((output - t).abs().mean() for t in target), torch.zeros(()))


# Order of arrival -------------------------------------------------------------------------------------------------


class Slow(Dataset[dict[str, Any]]):
    """The first samples take long."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        import time

        time.sleep(0.5 if index < 2 else 0.0)
        return {"x": index}


def arrivals(in_order: bool) -> list[list[list[int]]]:
    from trainer.schema.data import SamplingStrategy

    node = Data(
        train_dataset=None, dataloader_num_workers=2, dataloader_in_order=in_order,
        train_sampling_strategy=SamplingStrategy.sequential,
    )  # fmt: skip
    data = TrainData(Slow(), BatchLayout(2, 3, 1, 0), node, collate=None, seed=0, device=CPU)
    return [[batch["x"].tolist() for batch, _ in update] for update, _ in data.steps()]


def test_a_slow_micro_batch_holds_up_no_other() -> None:
    whole = [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]
    assert arrivals(True) == whole
    came = arrivals(False)
    assert came[0][0] == [2, 3]
    assert [sorted(update) for update in came] == whole


# Evaluation in 16 bits --------------------------------------------------------------------------------------------


class Formats(Blocks):
    def forward(self, x: Tensor) -> Tensor:
        assert self.training or (x.dtype == self.head.weight.dtype == torch.bfloat16)
        return super().forward(x)


@pytest.mark.parametrize("ranks", [1, 2])
def test_full_eval_leaves_the_training_alone(tmp_path: Path, ranks: int) -> None:
    model = {"_target_": "tests.train.test_fields.Formats"}
    sections: dict[str, Any] = {"parallel": DDP()} if ranks > 1 else {}
    train = Train(per_device_train_batch_size=4, max_steps=8)
    plain = make_config(train=train, **sections)
    bf16 = make_config(model=model, train=train, precision=Precision(bf16_full_eval=True), **sections)
    assert jobs.train(plain, tmp_path / "plain", world_size=ranks) == [0] * ranks
    assert jobs.train(bf16, tmp_path / "run", world_size=ranks) == [0] * ranks
    a, b = (list(read(tmp_path / name / "metrics.jsonl")) for name in ("plain", "run"))
    assert [r["loss"] for r in a if "loss" in r] == [r["loss"] for r in b if "loss" in r]
    evals = [[r["eval_loss"] for r in records if "eval_loss" in r] for records in (a, b)]
    assert evals[0] != evals[1]
    assert evals[0] == pytest.approx(evals[1], rel=0.02)
    for name in ("model/model.safetensors",):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_fp16_full_eval_and_tied_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)).eval()
    model[2].weight = model[0].weight
    before = {name: (id(tensor), tensor.data_ptr()) for name, tensor in model.state_dict(keep_vars=True).items()}
    with full_eval(model, Precision(fp16_full_eval=True)):
        assert model[0].weight.dtype == torch.float16
        assert model[0].weight is model[2].weight
        assert model(torch.randn(3, 4)).dtype == torch.float32
    assert {n: (id(t), t.data_ptr()) for n, t in model.state_dict(keep_vars=True).items()} == before
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


# Numbers that are not finite --------------------------------------------------------------------------------------


def with_nan(path: Path, keep: bool) -> list[dict[str, Any]]:
    config = make_config(
        data=Data(train_dataset={"_target_": "tests.train.test_session.Poisoned"}),
        train=Train(per_device_train_batch_size=4, max_steps=13, nan_policy=NanPolicy.skip),
        logging=Logging(logging_steps=13, logging_nan_inf_filter=keep),
        evaluation=Evaluation(),
    )
    assert jobs.train(config, path) == [0]
    return [r for r in read(path / "metrics.jsonl") if "loss" in r]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (record,) = with_nan(tmp_path / "filtered", True)
    assert record["nan_inf_count"] == 1
    assert math.isfinite(record["loss"])
    (record,) = with_nan(tmp_path / "raw", False)
    assert record["nan_inf_count"] == 1
    assert math.isnan(record["loss"])


# Checkpoints ------------------------------------------------------------------------------------------------------


def resumed(path: Path, **checkpoint: Any) -> list[str]:
    """A run killed in mid-epoch and resumed, with a callback that keeps a state; its digests of data and callbacks."""
    assert jobs.train(make_config(callbacks=killed_at(5) | COUNTS), path) == [-signal.SIGKILL]
    config = make_config(callbacks=COUNTS, checkpoint=Checkpoint(save_steps=3, **checkpoint))
    assert jobs.train(config, path, resume="auto") == [0]
    state = json.loads((path / "checkpoints" / "checkpoint-6" / "state.json").read_text())
    return [state["data"]["step_in_epoch"], state["callbacks"]["counts"]["steps"]]


class Counts(Callback):
    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, state: State, control: Control) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


COUNTS: dict[str, Any] = {"counts": {"_target_": "tests.train.test_fields.Counts"}}


def test_what_a_resume_takes_up(tmp_path: Path) -> None:
    assert resumed(tmp_path / "all") == [6, 6]
    assert resumed(tmp_path / "data", ignore_data_skip=True) == [3, 6]
    assert resumed(tmp_path / "callbacks", restore_callback_states_from_checkpoint=False) == [6, 3]


def test_a_signal_without_a_checkpoint(tmp_path: Path) -> None:
    config = make_config(
        callbacks=killed_at(7, signal.SIGTERM), checkpoint=Checkpoint(save_steps=3, enable_jit_checkpoint=False)
    )
    assert jobs.train(config, tmp_path / "run") == [PREEMPTED]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["checkpoint-3", "checkpoint-6"]
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert jobs.train(make_config(), tmp_path / "whole") == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_weights_for_torch_load(tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path / "a") == [0]
    assert jobs.train(make_config(checkpoint=Checkpoint(save_safetensors=False)), tmp_path / "b") == [0]
    weights = torch.load(tmp_path / "b" / "model" / "pytorch_model.bin", weights_only=True)
    expected = load_file(tmp_path / "a" / "model" / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert not (tmp_path / "b" / "model" / "model.safetensors").exists()


# Determinism and logs ---------------------------------------------------------------------------------------------


class Deterministic(Callback):
    def on_train_end(self, state: State, control: Control) -> None:
        import os

        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_full_determinism(tmp_path: Path) -> None:
    run = Run(output_dir="unused", seed=3, use_cpu=True, full_determinism=True)
    config = make_config(run=run, callbacks={"check": {"_target_": "tests.train.test_fields.Deterministic"}})
    assert jobs.train(config, tmp_path / "run") == [0]


@pytest.mark.parametrize(
    ("rank", "local", "each", "level"),
    [(0, 0, True, "DEBUG"), (2, 0, True, "DEBUG"), (2, 0, False, "ERROR"), (3, 1, True, "ERROR")],
)
def test_who_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, local: int, each: bool, level: str
) -> None:
    levels: list[str] = []

    def look(config: Any, directory: Path, objects: Any = None) -> Ended:
        levels.append(logging.getLevelName(logging.getLogger().level))
        return Ended("completed", nn.Module())

    monkeypatch.setattr("trainer.train.session.run", look)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    config = make_config(
        logging=Logging(log_level=LogLevel.debug, log_level_replica=LogLevel.error, log_on_each_node=each)
    )
    one_rank.train(config, tmp_path)
    assert levels == [level]
