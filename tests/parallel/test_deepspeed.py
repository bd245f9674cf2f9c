"""What is DeepSpeed's alone: its refusals, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn, optim

from tests.devices import CPU
from tests.parallel.updates import EvenRun, Logged, Run
from tests.ranks import run_ranks
from trainer import distributed
from trainer.config.composer import Composition
from trainer.parallel.deepspeed import DeepSpeedEngine
from trainer.schema.parallel import DDP, DeepSpeed
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


def file_of_ones_own(node: DeepSpeed) -> tuple[dict[str, object], list[Logged], list[Logged]]:
    run = EvenRun(node)
    reached = dict(run.engine._engine._config._param_dict)
    logged = run.train(0, 4)
    distributed.keep_store()
    run.engine.close()
    return reached, logged, EvenRun(DDP(ddp_timeout=60)).train(0, 4)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_file_of_ones_own_reaches_deepspeed_without_auto(
    stage: int, tmp_path: Path, compose: Callable[..., Composition]
) -> None:
    zero = {"stage": stage, "reduce_bucket_size": "auto", "contiguous_gradients": True, "overlap_comm": False}
    zero |= {"stage3_max_live_parameters": 1e8, "prefetch_bucket_size": "auto"} if stage == 3 else {}
    content = {"zero_optimization": zero, "bf16": {"enabled": "auto"}, "train_batch_size": "auto"}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(content | {"steps_per_print": 7, "wall_clock_breakdown": False}))
    config = compose("parallel=deepspeed", f"parallel.config={path}", "parallel.ddp_timeout=60").config
    assert config
    path.unlink()  # what is composed is frozen
    for reached, logged, expected in run_ranks(file_of_ones_own, config.parallel, timeout=120):
        assert '"auto"' not in json.dumps(reached)
        assert reached["steps_per_print"] == 7
        assert stage == 2 or reached["zero_optimization"]["stage3_max_live_parameters"] == 1e8  # type: ignore[index]
        assert [out.loss for out in logged] == pytest.approx([out.loss for out in expected], abs=1e-5)
