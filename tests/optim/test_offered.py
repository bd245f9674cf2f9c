"""Every offered optimizer that can run on this machine: the loss falls, and a checkpoint goes on to the bit."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.checkpoint import store
from trainer.config import machine
from trainer.config.composer import Composition
from trainer.config.sources import conf_directory
from trainer.optim import make_optimizer
from trainer.optim.averages import average_weights, train_weights
from trainer.parallel.single import SingleEngine
from trainer.schema.optim_packages import PACKAGES
from trainer.schema.parallel import Single
from trainer.schema.precision import Precision

OPTIONS = sorted(path.stem for path in (conf_directory() / "optim").glob("*.yaml"))
COMPILED = {"adamw_torch_4bit", "adamw_torch_8bit", "adamw_torch_fp8"}
"""Compile their step at first use, for 20 to 80 s on two cores: the test lets only the 8-bit one."""

ELSEWHERE = {"adamw_apex_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision"}
"""Need other hardware or Pythons: composed here, not run."""

RATES = {"adadelta": 1.0, "sgd": 0.1, "asgd": 0.1, "adagrad": 1e-2, "schedule_free_sgd": 0.3}
RATES |= {"lomo": 0.1, "adalomo": 0.03}
ARGUMENTS = {
    "galore_adamw": ["optim.rank=8", "optim.update_proj_gap=4"],
    "galore_adamw_8bit": ["optim.rank=64", "optim.update_proj_gap=4"],
    "galore_adafactor": ["optim.rank=8", "optim.update_proj_gap=4"],
    "apollo_adamw": ["optim.rank=8", "optim.update_proj_gap=4"],
    "schedule_free_radam": ["optim.silent_sgd_phase=false"],
    "soap": ["optim.precondition_frequency=2"],
}
Compose = Callable[..., Composition]


class Net(nn.Module):
    """With matrices large enough to be quantised, of both orientations, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 128)
        self.first, self.norm, self.second = nn.Linear(128, 128), nn.LayerNorm(128), nn.Linear(128, 64)

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.second(torch.relu(self.norm(self.first(self.embedding(ids)))))
        return hidden


class Run:
    """One process's engine, model and optimizer."""

    def __init__(self, node: Any, max_grad_norm: float = 1.0) -> None:
        torch.manual_seed(0)
        self.engine = SingleEngine(Single(), precision=Precision(), device=torch.device("cpu"))
        self.model, self.optimizer = self.engine.setup(
            Net(), lambda module: make_optimizer(node, module), max_grad_norm=max_grad_norm
        )
        self.norms: list[float] = []
        train_weights(self.optimizer)

    def train(self, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step % 3)
            ids = torch.randint(0, 64, (32,), generator=generator)
            loss = nn.functional.cross_entropy(self.model(ids), (ids * 7 + 1) % 64)
            self.engine.backward(loss)
            self.norms.append(self.engine.step().grad_norm.item())
            losses.append(loss.item())
        return losses

    def save(self, root: Path, step: int) -> Path:
        with average_weights(self.optimizer):
            state = self.engine.state()
            return store.save(root, step, shards=state.shards, state={"engine": state.meta}, rank_state={})

    def load(self, path: Path) -> None:
        saved = store.load(path)
        self.engine.load_state(saved.reader, saved.state["engine"])
        train_weights(self.optimizer)

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def node_of(compose: Compose, option: str, *overrides: str) -> Any:
    rate = RATES.get(option, 3e-3)
    given = ARGUMENTS.get(option.removesuffix("_layerwise"), ())
    config = compose(f"optim={option}", f"optim.learning_rate={rate}", *given, *overrides).config
    assert config is not None
    return config.optim


def needs(node: Any) -> None:
    """Skip where the option's package is not installed."""
    for cls, (module, _) in PACKAGES.items():
        if isinstance(node, cls):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pytest.importorskip(module)


CASES = [
    pytest.param(option, marks=pytest.mark.slow if option == "adamw_torch_8bit" else ())
    for option in OPTIONS
    if option not in ELSEWHERE
]


@pytest.mark.parametrize("option", CASES)
@pytest.mark.filterwarnings("ignore")  # the packages' own
def test_trains_and_goes_on_to_the_bit(compose: Compose, tmp_path: Path, option: str) -> None:
    node = node_of(compose, option)
    needs(node)
    with torch.compiler.set_stance("force_eager" if option in COMPILED - {"adamw_torch_8bit"} else "default"):
        _assert_resumes(node, tmp_path)


def _assert_resumes(node: Any, tmp_path: Path) -> None:
    straight = Run(node)
    losses = straight.train(0, 3)
    path = straight.save(tmp_path, 3)
    losses += straight.train(3, 9)
    assert sum(losses[-3:]) < sum(losses[:3])

    resumed = Run(node)
    resumed.train(5, 6)  # a state of its own, to be overwritten
    resumed.load(path)
    assert resumed.train(3, 9) == losses[3:]
    fresh = Run(node)
    fresh.load(path)
    assert fresh.train(3, 9) == losses[3:]
    for name, value in straight.weights().items():
        assert torch.equal(value, resumed.weights()[name]), name
        assert torch.equal(value, fresh.weights()[name]), name
    mine, theirs = (run.engine.state() for run in (straight, fresh))
    assert mine.meta == theirs.meta
    theirs_by_name = {shard.name: shard.data for shard in theirs.shards}
    assert theirs_by_name.keys() == {shard.name for shard in mine.shards}
    for shard in mine.shards:
        assert torch.equal(shard.data, theirs_by_name[shard.name]), shard.name
        assert shard.data.dtype == theirs_by_name[shard.name].dtype


@pytest.mark.parametrize("option", ["schedule_free_adamw", "schedule_free_sgd", "schedule_free_radam"])
def test_the_average_leaves_no_trace(compose: Compose, option: str) -> None:
    pytest.importorskip("schedulefree")
    node = node_of(compose, option)
    plain, looked = Run(node), Run(node)
    losses = plain.train(0, 6)
    seen = looked.train(0, 3)
    before = looked.weights()
    with average_weights(looked.optimizer):
        during = looked.weights()
    assert any(not torch.equal(during[name], value) for name, value in before.items())
    assert all(torch.equal(looked.weights()[name], value) for name, value in before.items())
    assert seen + looked.train(3, 6) == losses


@pytest.mark.filterwarnings("ignore")
def test_grokadamw_equals_the_package(compose: Compose) -> None:
    package = pytest.importorskip("grokadamw")
    node = node_of(compose, "grokadamw", "optim.weight_decay=0.1")
    mine, theirs = Run(node), Run(node)
    groups = [{k: group[k] for k in ("params", "weight_decay")} for group in theirs.optimizer.param_groups]
    theirs.engine._optimizer = package.GrokAdamW(groups, lr=3e-3)
    assert mine.train(0, 5) == pytest.approx(theirs.train(0, 5), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_galore_with_8_bits_equals_the_package(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("galore_torch")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    node = node_of(compose, "galore_adamw_8bit", "optim.weight_decay=0.1", "optim.optim_target_modules=[first]")
    mine, theirs = Run(node), Run(node)
    groups = [{k: v for k, v in g.items() if k not in ("lr", "betas", "eps")} for g in theirs.optimizer.param_groups]
    # today's bitsandbytes reads these two as max_unorm and skip_zeros
    reference = package.GaLoreAdamW8bit(groups, lr=3e-3, percentile_clipping=0.0, block_wise=False)
    reference.mng = mine.optimizer.mng  # type: ignore[attr-defined]  # not what other tests' optimizers told the process
    theirs.engine._optimizer = reference
    assert mine.train(0, 7) == theirs.train(0, 7)
    assert mine.optimizer.state[mine.model.get_parameter("first.weight")]["state1"].dtype == torch.uint8
    assert all(torch.equal(value, theirs.weights()[name]) for name, value in mine.weights().items())


@pytest.mark.parametrize("option", sorted(set(OPTIONS)))
def test_a_missing_package_has_a_cure(compose: Compose, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    composition = compose(f"optim={option}", "optim.learning_rate=1e-3")
    found = [str(p) for p in composition.problems if "which is not installed" in str(p)]
    packaged = isinstance(composition.config and composition.config.optim, tuple(PACKAGES))
    assert bool(found) == packaged
    assert all("fix: " in line for line in found)


@pytest.mark.filterwarnings("ignore")
def test_galore_projects_the_wanted_layers(compose: Compose) -> None:
    importlib.import_module("galore_torch")
    run = Run(node_of(compose, "galore_adamw", "optim.optim_target_modules=[first]", "optim.weight_decay=0.1"))
    *_, projected = run.optimizer.param_groups
    assert [tuple(p.shape) for p in projected["params"]] == [(128, 128)]
    assert (projected["rank"], projected["scale"], projected["weight_decay"]) == (8, 0.25, 0.1)
