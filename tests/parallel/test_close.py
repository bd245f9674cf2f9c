"""What an engine leaves behind: the caller's module as it was, and no process group, also when something failed."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Adafactor, AdamW, Optimizer

from tests.devices import CPU
from tests.parallel.updates import ENGINES, Logged, Run
from tests.ranks import run_ranks
from tests.tiny import Traps
from trainer import distributed
from trainer.build.build import build
from trainer.optim.layerwise import update_in_backward
from trainer.schema.parallel import FSDP, DeepSpeed, Mesh, Single
from trainer.schema.precision import Precision

BF16 = Precision(bf16=True)


def twice(engine: str) -> tuple[list[Logged], list[Logged]]:
    """A module that an engine has trained already, and a fresh one of the same weights."""
    first = Run(engine, precision=BF16)
    first.train(0, 2)
    module = getattr(first.model, "module", first.model)
    distributed.keep_store()
    first.engine.close()
    assert "forward" not in vars(module)
    fresh = Traps()
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    logged = []
    for model in (module, fresh):
        run = Run(engine, lambda model=model: model, precision=BF16)
        logged.append(run.train(2, 4))
        distributed.keep_store()
        run.engine.close()
    return logged[0], logged[1]


@pytest.mark.parametrize(("engine", "ranks"), [("single", 1), ("ddp", 2)])
def test_a_module_can_be_trained_again(engine: str, ranks: int) -> None:
    for again, fresh in run_ranks(twice, engine, world_size=ranks):
        assert again == fresh


def inside_backward(model: nn.Module) -> Optimizer:
    optimizer = AdamW(model.parameters())
    update_in_backward(optimizer)
    return optimizer


def test_a_module_whose_optimizer_updated_inside_backward_can_be_trained_again() -> None:
    model = nn.Linear(3, 3)
    for _ in range(2):
        engine = build(Single(), precision=Precision(), device=CPU)
        _, optimizer = engine.setup(model, inside_backward, max_grad_norm=0.0)
        before = model.weight.detach().clone()
        engine.backward(model(torch.ones(1, 3)).sum())
        assert float(optimizer.state[model.weight]["step"]) == 1
        assert not torch.equal(model.weight, before)
        engine.close()
    model(torch.ones(1, 3)).sum().backward()
    assert model.weight.grad is not None, "nothing updates it any more"


def fail(model: nn.Module) -> Optimizer:
    raise RuntimeError("no optimizer")


FAILURES: dict[str, tuple[Any, Any]] = {
    "a mesh of other sizes": (Mesh(tp_size=3), fail),
    "no plan": (Mesh(tp_size=2, ddp_timeout=60), fail),
    "fsdp": (FSDP(ddp_timeout=60), fail),
    "ddp": (ENGINES["ddp"], fail),
    "zero": (DeepSpeed(ddp_timeout=60), fail),
    "zero's rule": (DeepSpeed(ddp_timeout=60), lambda model: Adafactor(model.parameters())),
}


def failures() -> list[tuple[str, bool, set[str]]]:
    found = []
    for name, (node, make) in FAILURES.items():
        before, model = set(os.environ), Traps()
        try:
            engine = build(node, precision=BF16, device=CPU)
        except ValueError:
            found.append((name, dist.is_initialized(), set(os.environ) - before))
            continue
        with pytest.raises((ValueError, RuntimeError)):
            engine.setup(model, make, max_grad_norm=1.0)
        distributed.keep_store()
        engine.close()
        assert "forward" not in vars(model), name
        engine.close()
        found.append((name, dist.is_initialized(), set(os.environ) - before))
    return found


def test_a_failed_engine_leaves_no_process_group() -> None:
    for rank in run_ranks(failures, timeout=120):
        assert [name for name, _, _ in rank] == list(FAILURES)
        assert not any(initialized for _, initialized, _ in rank)
        assert set().union(*(added for _, _, added in rank)) <= {"TORCHINDUCTOR_CACHE_DIR"}  # torch's own
