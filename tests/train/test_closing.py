"""Nothing is left of a run: not of one that failed while it was built, nor on the model and in the process."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests import jobs, ranks
from tests.jobs import make_config
from tests.tiny import Blocks
from trainer.errors import ReporterError
from trainer.logging.reporter import Reporter
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.memory import Memory
from trainer.schema.optim import LOMO
from trainer.schema.parallel import FSDP
from trainer.schema.precision import Precision
from trainer.schema.run import Run
from trainer.schema.train import Train
from trainer.state import RunInfo
from trainer.train.interrupts import Interrupts
from trainer.train.objects import Objects
from trainer.train.session import Session, run


class Refused(Exception):
    """What the parts below raise."""


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise Refused


class RefusesSetup(Blocks):
    """Its engine cannot place it."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        raise Refused

    def named_children(self) -> Any:
        raise Refused


class Silent(Reporter):
    def start(self, run: RunInfo) -> None: ...
    def log(self, record: dict[str, Any]) -> None: ...
    def finish(self, status: str) -> None: ...


REFUSING = {"_target_": "tests.train.test_closing.refuse"}
STAGES: dict[str, Callable[[Config], None]] = {
    "train_dataset": lambda c: setattr(c.data, "train_dataset", REFUSING),
    "model": lambda c: setattr(c, "model", REFUSING),
    "setup": lambda c: setattr(c, "model", {"_target_": "tests.train.test_closing.RefusesSetup"}),
    "optim": lambda c: setattr(c, "optim", {"_target_": "tests.train.test_closing.refuse", "lr": 1.0}),
    "eval_dataset": lambda c: setattr(c.data, "eval_dataset", REFUSING),
    "scheduler": lambda c: setattr(c, "scheduler", REFUSING),
    "callbacks": lambda c: c.callbacks.update(bad=REFUSING),
    "reporters": lambda c: c.logging.reporters.update(
        good={"_target_": "tests.train.test_closing.Silent"}, bad=REFUSING
    ),
}


def open_files(directory: Path) -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # the listing's own
            continue
    return [target for target in found if target.startswith(str(directory))]


@pytest.mark.parametrize("stage", STAGES)
def test_what_fails_while_it_is_built_leaves_nothing(tmp_path: Path, stage: str) -> None:
    config = make_config(parallel=FSDP(), run=Run(output_dir="x", seed=3, use_cpu=True, full_determinism=True))
    STAGES[stage](config)
    jobs.begin(config, tmp_path / "run")

    def attempt() -> None:
        threads = set(threading.enumerate())
        with Interrupts() as interrupts, pytest.raises((Refused, ReporterError)) as caught:
            Session(config, tmp_path / "run", interrupts)
        assert "Refused" in f"{caught.type.__name__} {caught.value}"
        assert not dist.is_initialized()
        assert open_files(tmp_path) == []
        assert not torch.are_deterministic_algorithms_enabled()
        assert set(threading.enumerate()) == threads

    assert ranks.exit_code(attempt) == 0


class Heavy(nn.Module):
    """A module of everything that a run adds something to."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        output: Tensor = x.mean(1)
        return output


class Ids(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randint(5, (3,), generator=torch.Generator().manual_seed(index)), index % 4


def additions(model: nn.Module) -> list[str]:
    names = ("forward", "_compiled_call_impl")
    found = [name for module in model.modules() for name in names if name in vars(module)]
    for module in model.modules():
        found += [str(hook) for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]
    return found + ["hook" for p in model.parameters() if p._post_accumulate_grad_hooks]


def heavy(directory: Path, **sections: Any) -> Config:
    nowhere = {"_target_": "tests.nowhere.Nothing"}
    config = make_config(
        model=nowhere,
        train=Train(per_device_train_batch_size=8, max_steps=4, neftune_noise_alpha=5.0),
        memory=Memory(activation_checkpointing=True),
        run=Run(output_dir="x", seed=3, use_cpu=True, debug="underflow_overflow"),
        **sections,
    )
    config.data.train_dataset = config.data.eval_dataset = {"_target_": "tests.train.test_closing.Ids"}
    jobs.begin(config, directory)
    return config


VARIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "bf16": lambda: {"precision": Precision(bf16=True)},
    "layerwise": lambda: {"optim": LOMO(learning_rate=1e-2)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_can_be_trained_again_as_in_a_fresh_process(tmp_path: Path, variant: str) -> None:
    saved = {name: tmp_path / f"{name}.pt" for name in ("first", "second", "fresh")}

    def train(model: nn.Module, name: str) -> None:
        config = heavy(tmp_path / name, **VARIANTS[variant]())
        config.train.max_grad_norm = 0.0  # which LOMO cannot do
        run(config, tmp_path / name, Objects(model=model))
        assert additions(model) == []
        torch.save(model.state_dict(), saved[name])

    def twice() -> None:
        torch.manual_seed(0)
        model = Heavy()
        train(model, "first")
        train(model, "second")

    def fresh() -> None:
        model = Heavy()
        model.load_state_dict(torch.load(saved["first"], weights_only=True))
        train(model, "fresh")

    assert ranks.exit_code(twice) == 0
    assert ranks.exit_code(fresh) == 0
    first, second, third = (torch.load(path, weights_only=True) for path in saved.values())
    assert not all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(second[name], third[name]) for name in second)


def test_the_parts_of_a_run_are_no_cycle(tmp_path: Path) -> None:
    config = make_config(checkpoint=Checkpoint(save_steps=3, async_save=True))
    jobs.begin(config, tmp_path)

    def attempt() -> None:
        gc.collect()
        gc.disable()
        with Interrupts() as interrupts:
            session = Session(config, tmp_path, interrupts)
            status = session.train()
            session.close(status)
        freed = [weakref.ref(part) for part in (session.records, session.evaluations, session.events, session.data)]
        del session
        assert [part() for part in freed] == [None] * len(freed)

    assert ranks.exit_code(attempt) == 0
