"""What is DeepSpeed's alone: its refusals, and that it leaves nothing behind."""

from __future__ import annotations

import os

import pytest
from torch import nn, optim

from tests.parallel.traps import CPU, Logged, Run
from tests.ranks import run_ranks
from trainer.parallel.deepspeed import DeepSpeedEngine
from trainer.schema.parallel import DeepSpeed
from trainer.schema.precision import Precision


def one_after_the_other() -> list[list[Logged]]:
    logged = []
    for engine in ("zero3", "zero2", "single"):
        before = dict(os.environ)
        run = Run(engine)
        logged.append(run.train(0, 3))
        run.engine.close()
        assert set(os.environ) - set(before) <= {"TORCHINDUCTOR_CACHE_DIR"}  # torch's own
    return logged


def test_engines_follow_each_other_in_one_process() -> None:
    ((zero3, zero2, single),) = run_ranks(one_after_the_other, world_size=1)
    for logged in (zero3, zero2):
        assert [out.loss for out in logged] == pytest.approx([out.loss for out in single], abs=1e-5)


def test_no_fp16_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="DeepSpeed has no fp16 on the CPU"):
        DeepSpeedEngine(DeepSpeed(), precision=Precision(fp16=True), device=CPU)


def adafactor(model: nn.Module) -> optim.Optimizer:
    return optim.Adafactor(model.parameters())


def refused() -> str:
    with pytest.raises(ValueError, match="flat slices") as caught:
        Run("zero1", make_optimizer=adafactor)
    return str(caught.value)


def test_an_optimizer_that_needs_whole_matrices_is_refused() -> None:
    assert "Adafactor cannot do; fix: parallel=fsdp" in run_ranks(refused, world_size=1)[0]
