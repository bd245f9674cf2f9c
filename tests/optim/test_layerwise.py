"""Optimizers that update inside backward: the usual ones' numbers, without their gradients."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests import jobs
from tests.optim.test_offered import Run, needs, node_of
from trainer.config.composer import Composition
from trainer.errors import ConfigError
from trainer.launch import start
from trainer.logging.jsonl import read
from trainer.optim import make_optimizer
from trainer.parallel.step import step
from trainer.schema import optim
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation
from trainer.schema.parallel import DDP
from trainer.schema.train import NanPolicy

Compose = Callable[..., Composition]
OPTIONS = ["lomo", "adalomo", "apollo_adamw_layerwise", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise"]
OPTIONS += ["galore_adafactor_layerwise"]


def content(run: Run) -> dict[str, Tensor]:
    """All that a checkpoint would hold of it."""
    return {shard.name: shard.data for shard in run.engine.state().shards}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.filterwarnings("ignore")
def test_the_numbers_are_the_usual_ones_to_the_bit(compose: Compose, option: str) -> None:
    needs(node_of(compose, option))
    inside = Run(node_of(compose, option, "optim.weight_decay=0.1"), max_grad_norm=0)
    usual = Run(node_of(compose, option, "optim.weight_decay=0.1", "optim.layerwise=false"), max_grad_norm=0)
    clipped = Run(node_of(compose, option, "optim.weight_decay=0.1", "optim.layerwise=false"), max_grad_norm=0.01)
    assert inside.train(0, 7) == usual.train(0, 7) != clipped.train(0, 7)
    assert inside.norms == usual.norms
    assert min(inside.norms) > 0
    mine, his = content(inside), content(usual)
    assert mine.keys() == his.keys()
    assert all(torch.equal(value, his[name]) for name, value in mine.items())
    assert inside.engine.state().meta == usual.engine.state().meta


def test_one_gradient_exists_at_a_time() -> None:
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    optimizer = make_optimizer(optim.LOMO(learning_rate=0.1), model)
    alive: list[int] = []
    for parameter in model.parameters():
        parameter.register_hook(lambda _: alive.append(sum(p.grad is not None for p in model.parameters())))
    model(torch.ones(2, 6)).sum().backward()
    assert len(alive) == 8
    assert set(alive) == {0}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not optimizer.state_dict()["state"]


def test_a_tied_weight_is_updated_once_and_a_second_backward_is_an_error() -> None:
    layer = nn.Linear(3, 3, bias=False)
    tied = nn.Sequential(layer, nn.Tanh(), layer)
    usual = [p.detach().clone().requires_grad_() for p in tied.parameters()]
    optimizer, parameters = make_optimizer(optim.LOMO(learning_rate=0.1), tied), list(tied.parameters())
    x = torch.randn(5, 3)
    (torch.tanh(x @ usual[0].T) @ usual[0].T).sum().backward()
    tied(x).sum().backward()
    assert usual[0].grad is not None
    torch.testing.assert_close(parameters[0], usual[0] - 0.1 * usual[0].grad, rtol=1e-6, atol=1e-7)
    with pytest.raises(RuntimeError, match="two gradients in one step"):
        tied(x).sum().backward()
    torch.testing.assert_close(step(parameters, optimizer, None, 0.0, False).grad_norm, usual[0].grad.norm())
    tied(x).sum().backward()  # a new step


def test_a_model_that_is_given_up_is_freed() -> None:
    """auto_find_batch_size starts over with another one, when memory is short."""
    model = nn.Linear(3, 3)
    optimizer = make_optimizer(optim.LOMO(), model)
    model(torch.ones(1, 3)).sum().backward()
    left = weakref.ref(model.weight)
    del model, optimizer
    gc.collect()
    assert left() is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("option", "theirs"), [("lomo", "LOMO"), ("adalomo", "AdaLOMO")])
def test_lomo_and_adalomo_are_pytorch_optimizers(compose: Compose, option: str, theirs: str) -> None:
    """Its classes follow lomo_optim's, whose AdaLomo needs CUDA."""
    package = pytest.importorskip("pytorch_optimizer")
    mine = Run(node_of(compose, option), max_grad_norm=0)
    losses, norms = mine.train(0, 7), mine.norms
    other = Run(optim.SGD(learning_rate=0.0))
    optimizer: Any = getattr(package, theirs)(other.model, lr=mine.optimizer.param_groups[0]["lr"])
    other.engine.backward = lambda loss: optimizer.fused_backward(loss, optimizer.lr)  # type: ignore[method-assign]
    assert losses == pytest.approx(other.train(0, 7), rel=1e-5)
    assert len(set(norms)) == 7


def config(**sections: Any) -> Any:
    made = jobs.make_config(optim=optim.AdaLomo(learning_rate=0.03, weight_decay=0.1), **sections)
    made.train.max_grad_norm, made.train.gradient_accumulation_steps = 0.0, 1
    return made


def test_ddp_trains_on_one_rank_and_refuses_two(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert jobs.train(config(), tmp_path / "single") == [0]
    assert jobs.train(config(parallel=DDP()), tmp_path / "ddp") == [0]
    assert jobs.logged(tmp_path / "single") == jobs.logged(tmp_path / "ddp")
    assert 0 not in jobs.train(config(parallel=DDP()), tmp_path / "two", world_size=2)
    assert "before gradients are averaged over ranks" in capfd.readouterr().err


def test_torchruns_ranks_are_refused_before_the_run(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    composition = compose("optim=lomo")
    assert composition.config is not None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert start.check(composition)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="before gradients are averaged over ranks, and 2 ranks were started"):
        start.check(composition)


def test_a_rollback_undoes_an_update_that_was_not_finite(tmp_path: Path) -> None:
    made = config(data=Data(train_dataset={"_target_": "tests.train.test_session.Poisoned"}), evaluation=Evaluation())
    made.train.nan_policy = NanPolicy.rollback
    assert jobs.train(made, tmp_path) == [0]
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    records = [record for record in read(tmp_path / "metrics.jsonl") if "loss" in record]
    assert any("nan_inf_count" in record for record in records)
