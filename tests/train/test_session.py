"""What a run does with its parts: the numbers it logs, bad numbers, observers, best weights, world sizes."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests import jobs
from tests.jobs import STEPS, make_config
from tests.tiny import PLAIN, Augmented, Still
from trainer.callbacks.callback import Callback
from trainer.data.batches import epoch_order
from trainer.logging.jsonl import read
from trainer.logging.reporter import Reporter
from trainer.schema import Config
from trainer.schema.callbacks import EarlyStopping
from trainer.schema.checkpoint import Checkpoint, SaveStrategy
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation, IntervalStrategy
from trainer.schema.logging import Logging
from trainer.schema.parallel import DDP, FSDP
from trainer.schema.precision import Precision
from trainer.schema.train import NanPolicy, Train
from trainer.state import Control, RunInfo, State

pytestmark = pytest.mark.usefixtures("device_type")


class Poisoned(Augmented):
    """One sample is not a number."""

    def __init__(self) -> None:
        super().__init__(augment=False)
        self.inputs[20] = math.nan


class Noise(Reporter):
    """Draws random numbers from every generator, then breaks."""

    def start(self, run: RunInfo) -> None:
        self.log({})

    def log(self, record: dict[str, Any]) -> None:
        torch.rand(7), np.random.rand(3), random.random()
        if record.get("step", 0) > 6:
            raise RuntimeError("this reporter is broken")

    def finish(self, status: str) -> None: ...


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: State, control: Control) -> None:
        control.should_training_stop |= state.step == self.step


def still(**sections: Any) -> Config:
    """No randomness but the data order."""
    data = Data(train_dataset=PLAIN, eval_dataset=PLAIN)
    return make_config(**({"model": {"_target_": "tests.tiny.Still"}, "data": data} | sections))


def records(directory: Path, key: str) -> list[dict[str, Any]]:
    return [record for record in read(directory / "metrics.jsonl") if key in record]


def values(directory: Path, key: str) -> list[float]:
    return [record[key] for record in records(directory, key)]


def every_step(**settings: Any) -> Logging:
    return Logging(logging_steps=1, **settings)


def test_a_run_equals_a_hand_written_loop(tmp_path: Path) -> None:
    config = still(logging=every_step())
    assert jobs.train(config, tmp_path / "run") == [0]

    torch.manual_seed(3)
    torch.set_num_threads(1)
    model, data = Still(), Augmented(augment=False)
    decayed = [p for name, p in model.named_parameters() if "bias" not in name and "norm" not in name]
    others = [p for name, p in model.named_parameters() if "bias" in name or "norm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )

    def factor(step: int) -> float:
        if step < 2:
            return step / 2
        return max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * 0.5 * (step - 2) / (STEPS - 2))))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses, norms, rates = [], [], []
    for epoch in range(2):
        order = epoch_order(49, 3, epoch).tolist()
        for start in range(0, 49, 8):
            update = order[start : start + 8]
            total = 0.0
            for part in (update[:4], update[4:]):
                if part:
                    x = torch.stack([data[i][0] for i in part])
                    y = torch.tensor([data[i][1] for i in part])
                    loss = nn.functional.cross_entropy(model(x), y) / (len(update) / len(part))
                    loss.backward()
                    total += loss.item()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(total)
    assert values(tmp_path / "run", "loss") == pytest.approx(losses, rel=1e-6)
    assert values(tmp_path / "run", "grad_norm") == pytest.approx(norms, rel=1e-6)
    assert values(tmp_path / "run", "learning_rate") == pytest.approx(rates, rel=1e-12)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(weights[name], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_the_records_have_the_contracts_keys(tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path) == [0]
    train, evaluation, end = records(tmp_path, "loss"), records(tmp_path, "eval_loss"), records(tmp_path, "train_loss")
    assert [r["step"] for r in train] == list(range(2, STEPS + 1, 2))
    assert [r["step"] for r in evaluation] == [4, 8, 12, 14]
    assert {"step", "epoch", "time", "loss", "grad_norm", "learning_rate"} == train[0].keys()
    speed = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert {"step", "epoch", "time", "eval_loss", *speed} == evaluation[0].keys()
    assert len(end) == 1
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second"} <= end[0].keys()
    assert end[0]["train_loss"] == pytest.approx(sum(r["loss"] for r in train) / len(train))
    assert train[-1]["epoch"] == 2.0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["result"]["step"] == STEPS
    assert manifest["result"]["last"]["eval_loss"] == evaluation[-1]["eval_loss"]


SPLITS = {
    "one rank": (8, 1, 1, DDP()),
    "accumulation": (2, 4, 1, DDP()),
    "two ranks": (4, 1, 2, DDP()),
    "two ranks, accumulation": (1, 4, 2, DDP()),
    "three ranks": (1, 3, 3, None),
    "two shards": (2, 2, 2, FSDP()),
}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The reference for 8 and for 9 samples per update."""
    found = {}
    for size in (8, 9):
        found[size] = tmp_path_factory.mktemp("one") / "run"
        train = Train(per_device_train_batch_size=size, num_train_epochs=2.0)
        assert jobs.train(still(train=train, logging=every_step(), parallel=DDP()), found[size]) == [0]
    return found


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "one rank"])
def test_the_split_of_an_update_changes_nothing(tmp_path: Path, one_rank: dict[int, Path], split: str) -> None:
    size, accumulation, world, parallel = SPLITS[split]
    train = Train(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, num_train_epochs=2.0)
    config = still(train=train, logging=every_step(), parallel=parallel or DDP())
    assert jobs.train(config, tmp_path / "run", world_size=world) == [0] * world
    reference = one_rank[size * accumulation * world]
    for key in ("loss", "grad_norm", "eval_loss"):
        assert values(tmp_path / "run", key) == pytest.approx(values(reference, key), rel=2e-4)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dropout and augmentation, observed as little as can be."""
    directory = tmp_path_factory.mktemp("observed") / "run"
    assert jobs.train(make_config(**QUIET), directory) == [0]
    return directory


QUIET = {
    "evaluation": Evaluation(),
    "checkpoint": Checkpoint(save_steps=STEPS),
    "logging": Logging(logging_steps=STEPS),
}


@pytest.mark.parametrize(
    "sections",
    [
        {"evaluation": Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=1, eval_on_start=True)},
        {"checkpoint": Checkpoint(save_steps=1)},
        {"logging": Logging(logging_steps=1, reporters={"noise": {"_target_": "tests.train.test_session.Noise"}})},
    ],
    ids=["evaluation", "saving", "a reporter that draws random numbers and breaks"],
)
def test_observers_change_no_bit(tmp_path: Path, observed: Path, sections: dict[str, Any]) -> None:
    assert jobs.train(make_config(**(QUIET | sections)), tmp_path / "run") == [0]
    for name in ("model/model.safetensors",):
        assert (tmp_path / "run" / name).read_bytes() == (observed / name).read_bytes()


def test_a_bad_number_aborts_and_is_never_saved(tmp_path: Path) -> None:
    data = Data(train_dataset={"_target_": "tests.train.test_session.Poisoned"}, eval_dataset=PLAIN)
    assert jobs.train(still(data=data, checkpoint=Checkpoint(save_steps=1)), tmp_path / "run") == [1]
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        weights = load_file(path / "rank-00000.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    order = epoch_order(49, 3, 0).tolist()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == order.index(20) // 8


@pytest.mark.parametrize("policy", [NanPolicy.skip, NanPolicy.rollback])
@pytest.mark.parametrize("parallel", ["one", "ddp"])
def test_a_bad_number_can_be_skipped_or_rolled_back(tmp_path: Path, policy: NanPolicy, parallel: str) -> None:
    world = 1 if parallel == "one" else 2
    train = Train(per_device_train_batch_size=8 // world, max_steps=12, nan_policy=policy)
    data = Data(train_dataset={"_target_": "tests.train.test_session.Poisoned"}, eval_dataset=PLAIN)
    config = still(train=train, data=data, logging=every_step(), checkpoint=Checkpoint(save_steps=1), parallel=DDP())
    assert jobs.train(config, tmp_path / "run", world_size=world) == [0] * world
    steps = [record["step"] for record in records(tmp_path / "run", "loss")]
    assert steps == sorted(set(steps)), "a step stands twice in metrics.jsonl"
    for record in records(tmp_path / "run", "loss"):  # what was left out is counted, never hidden
        assert math.isfinite(record["loss"]) == ("nan_inf_count" not in record)
    assert any("nan_inf_count" in record for record in records(tmp_path / "run", "loss"))
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


class Loud(Still):
    """Its gradients overflow fp16 at the scaler's first scales."""

    def forward(self, x: Tensor) -> Tensor:
        return 300 * super().forward(x)


def test_fp16_overflow_is_the_scalers_business(tmp_path: Path) -> None:
    model = {"_target_": "tests.train.test_session.Loud"}
    assert jobs.train(still(model=model, precision=Precision(fp16=True), logging=every_step()), tmp_path / "run") == [0]
    rates, norms = values(tmp_path / "run", "learning_rate"), values(tmp_path / "run", "grad_norm")
    skipped = [not math.isfinite(norm) for norm in norms]
    assert skipped[0]
    assert not all(skipped)
    assert [after == before for before, after in pairwise(rates)] == skipped[:-1]


def test_the_best_weights_are_exported(tmp_path: Path) -> None:
    checkpoint = Checkpoint(
        save_strategy=SaveStrategy.steps, save_steps=2, load_best_model_at_end=True, greater_is_better=True
    )  # the worst loss is the "best": step 2, long gone by the end
    evaluation = Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=2)
    config = still(checkpoint=checkpoint, evaluation=evaluation)
    assert jobs.train(config, tmp_path / "run") == [0]
    worst = max(records(tmp_path / "run", "eval_loss"), key=lambda record: record["eval_loss"])
    exported = load_file(tmp_path / "run" / "model" / "model.safetensors")
    saved = load_file(tmp_path / "run" / "checkpoints" / f"checkpoint-{worst['step']}" / "rank-00000.safetensors")
    assert all(torch.equal(exported[name], saved[f"model/{name}"]) for name in exported)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["result"]["best"] == {
        "metric": "eval_loss", "value": worst["eval_loss"], "step": worst["step"]
    }  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2])
def test_retention_keeps_the_newest_and_the_best(tmp_path: Path, limit: int) -> None:
    checkpoint = Checkpoint(save_steps=2, save_total_limit=limit, load_best_model_at_end=True, greater_is_better=True)
    evaluation = Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=2)
    assert jobs.train(still(checkpoint=checkpoint, evaluation=evaluation), tmp_path / "run") == [0]
    best = json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]["best"]["step"]
    kept = {int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert best in kept
    assert STEPS in kept


def test_save_strategy_best_saves_improvements_only(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save_strategy=SaveStrategy.best, metric_for_best_model="loss")
    evaluation = Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=2)
    assert jobs.train(still(checkpoint=checkpoint, evaluation=evaluation), tmp_path / "run") == [0]
    best, improvements = math.inf, set()
    for record in records(tmp_path / "run", "eval_loss"):
        if record["eval_loss"] < best:
            best = record["eval_loss"]
            improvements.add(f"checkpoint-{record['step']}")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == improvements


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    config = still(
        evaluation=Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=1),
        checkpoint=Checkpoint(greater_is_better=True),  # a falling loss never improves on the first
        callbacks={"early_stopping": EarlyStopping(early_stopping_patience=3)},
    )
    assert jobs.train(config, tmp_path / "run") == [0]
    assert len(records(tmp_path / "run", "eval_loss")) < STEPS
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("world", [1, 2])
def test_a_wish_of_one_rank_is_everyones(tmp_path: Path, world: int) -> None:
    config = still(parallel=DDP(), callbacks={"stop": {"_target_": "tests.train.test_session.StopAt", "step": 5}})
    assert jobs.train(config, tmp_path / "run", world_size=world) == [0] * world
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["result"]["step"] == 5


class Diary(Callback):
    """Writes down the hooks that were called."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _write(self, name: str, state: State) -> None:
        with open(self.path, "a") as file:
            file.write(f"{name} {state.step}\n")

    def on_epoch_begin(self, state: State, control: Control) -> None:
        self._write("begin", state)

    def on_epoch_end(self, state: State, control: Control) -> None:
        self._write("end", state)


def test_every_epoch_ends_once_also_when_it_was_interrupted_at_its_end(tmp_path: Path) -> None:
    kill = {"_target_": "tests.jobs.KillAt", "step": 7, "number": 15}
    for name, callbacks in (("whole", {}), ("run", {"kill": kill})):
        diary = {"diary": {"_target_": "tests.train.test_session.Diary", "path": str(tmp_path / f"{name}.txt")}}
        jobs.train(still(callbacks=diary | callbacks), tmp_path / name)
    diary = {"diary": {"_target_": "tests.train.test_session.Diary", "path": str(tmp_path / "run.txt")}}
    assert jobs.train(still(callbacks=diary), tmp_path / "run", resume="auto") == [0]
    assert (tmp_path / "run.txt").read_text() == (tmp_path / "whole.txt").read_text()
    assert (tmp_path / "whole.txt").read_text().split("\n")[:-1] == ["begin 0", "end 7", "begin 7", "end 14"]


def test_a_signal_in_the_last_step_interrupts_nothing(tmp_path: Path) -> None:
    kill = {"_target_": "tests.jobs.KillAt", "step": STEPS, "number": 15}
    assert jobs.train(still(callbacks={"kill": kill}), tmp_path / "run") == [0]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


class Counted(nn.Module):
    """A language model of one table, with the loss left to the task."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.table(input_ids)
        return output


class Ragged(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Sequences of which very different shares are predicted."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.randint(11, (9,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[: index % 8] = -100
        return {"input_ids": ids, "labels": labels}


def test_every_token_of_an_update_weighs_the_same(tmp_path: Path) -> None:
    from trainer.schema.task import LanguageModeling

    def config(size: int, accumulation: int) -> Config:
        return make_config(
            model={"_target_": "tests.train.test_session.Counted"},
            task=LanguageModeling(),
            data=Data(train_dataset={"_target_": "tests.train.test_session.Ragged"}),
            train=Train(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=6),
            evaluation=Evaluation(),
            logging=every_step(),
            parallel=DDP(),
        )

    runs = {(8, 1, 1): "one", (2, 4, 1): "accumulated", (2, 2, 2): "ranks"}
    for (size, accumulation, world), name in runs.items():
        assert jobs.train(config(size, accumulation), tmp_path / name, world_size=world) == [0] * world
    for key in ("loss", "grad_norm"):
        one = values(tmp_path / "one", key)
        assert values(tmp_path / "accumulated", key) == pytest.approx(one, rel=1e-5)
        assert values(tmp_path / "ranks", key) == pytest.approx(one, rel=1e-5)
