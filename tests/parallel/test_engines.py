"""All engines are one: the same losses, norms and states, whatever the model is spread over."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel.updates import Logged, Run, adamw
from tests.ranks import run_ranks
from tests.tiny import Traps
from trainer.schema.precision import Precision

pytestmark = pytest.mark.usefixtures("device_type")

SHARDED = ["fsdp", "zero1", "zero2", "zero3"]
STEPS = 6


def train(engine: str, precision: Precision, make_optimizer: Any = adamw) -> list[Logged]:
    run = Run(engine, partial(Traps, batch_norm=False), precision=precision, make_optimizer=make_optimizer)
    logged = run.train(0, STEPS)
    run.engine.close()
    return logged


def assert_close(logged: list[Logged], reference: list[Logged], loss: float, norm: float) -> None:
    assert [out.loss for out in logged] == pytest.approx([out.loss for out in reference], abs=loss, rel=0)
    assert [out.grad_norm for out in logged] == pytest.approx([out.grad_norm for out in reference], abs=norm, rel=norm)


@pytest.fixture(scope="module")
def reference() -> list[Logged]:
    return train("single", Precision())


@pytest.mark.parametrize("engine", ["ddp", *SHARDED])
def test_two_ranks_compute_what_one_process_does(engine: str, reference: list[Logged]) -> None:
    assert all(out.grad_norm > 0.3 for out in reference), "clipping must bite"
    ranks = run_ranks(train, engine, Precision())
    assert ranks[0] == ranks[1]
    assert_close(ranks[0], reference, loss=1e-5, norm=1e-4)


@pytest.mark.parametrize("engine", ["ddp", *SHARDED])
def test_bf16_is_close_to_fp32(engine: str, reference: list[Logged]) -> None:
    ranks = run_ranks(train, engine, Precision(bf16=True))
    assert ranks[0] == ranks[1]
    assert_close(ranks[0], reference, loss=0.03, norm=0.1)
    assert ranks[0] != reference


@pytest.mark.parametrize("engine", SHARDED)
def test_one_rank_is_enough(engine: str, reference: list[Logged]) -> None:
    (logged,) = run_ranks(train, engine, Precision(), world_size=1)
    assert_close(logged, reference, loss=1e-5, norm=1e-4)


def resume(engine: str, precision: Precision, directory: Path) -> dict[str, Any]:
    """Run on, and go back and run on again, in fresh objects."""
    run = Run(engine, partial(Traps, dropout=0.1), precision=precision)
    run.train(0, 3)
    meta = run.save(directory / "checkpoint")
    at = run.digest(directory / "saved")
    logged, end = run.train(3, 5), run.digest(directory / "end")
    # rollback: the same objects
    run.load(directory / "checkpoint", meta)
    assert run.digest(directory / "rolled-back") == at
    assert run.train(3, 5) == logged
    # resume: fresh ones
    run = Run(engine, partial(Traps, dropout=0.1), precision=precision)
    run.load(directory / "checkpoint", meta)
    assert run.digest(directory / "loaded") == at
    assert run.train(3, 5) == logged
    assert run.digest(directory / "again") == end
    return end


@pytest.mark.parametrize(
    ("engine", "world_size", "precision"),
    [
        ("single", 1, Precision(fp16=True)),
        ("ddp", 2, Precision(bf16=True)),
        ("ddp", 3, Precision()),  # from 3 ranks on the order of DDP's buckets shows
        ("fsdp", 2, Precision(fp16=True)),
        ("fsdp", 3, Precision(bf16=True)),
        ("zero1", 2, Precision(bf16=True)),
        ("zero2", 3, Precision()),
        ("zero3", 2, Precision(bf16=True)),
        ("zero0", 3, Precision(bf16=True)),
        ("zero2_offload", 2, Precision()),
        ("zero3_offload", 2, Precision(bf16=True)),
        ("hybrid", 2, Precision(fp16=True)),
    ],
)
def test_resume_is_exact(engine: str, world_size: int, precision: Precision, tmp_path: Path) -> None:
    run_ranks(resume, engine, precision, tmp_path, world_size=world_size)


def start(engine: str, directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    run = Run(engine)
    run.train(0, 2)
    return run.save(directory / "start"), run.digest(directory / "start-again")


def migrate(engine: str, meta: dict[str, Any], directory: Path) -> tuple[dict[str, Any], dict[str, str], list[Logged]]:
    """Load another engine's checkpoint and save it again."""
    run = Run(engine)
    run.load(directory / "start", meta)
    weights = run.engine.weights()
    if run.rank == 0:
        assert weights is not None
        assert torch.equal(weights["head.weight"], weights["embed.weight"])
    digest = run.digest(directory / engine)
    meta = run.save(directory / f"{engine}-save")
    return meta, digest, run.train(2, 4)


def test_a_checkpoint_of_one_engine_is_every_engines(tmp_path: Path) -> None:
    saved = {}
    for first, world_size in (("ddp", 1), ("zero3", 3)):
        directory = tmp_path / first
        directory.mkdir()
        meta, digest = run_ranks(start, first, directory, world_size=world_size)[0]
        assert len(digest) == 24 * 4 + 3  # weights, two moments and a step each; BatchNorm's buffers
        for engine in SHARDED:
            again, same, logged = run_ranks(migrate, engine, meta, directory)[0]
            assert same == digest
            assert again == meta
            saved[first, engine] = logged
        assert_close(saved[first, "fsdp"], saved[first, "zero3"], loss=1e-4, norm=1e-3)


def poisoned(engine: str, precision: Precision) -> list[tuple[bool, bool]]:
    run = Run(engine, precision=precision)
    before = run.engine.weights()
    logged = run.train(0, 1, poison=0)
    after = run.engine.weights()
    if run.rank == 0:
        assert before is not None
        assert after is not None
        changed = [name for name in before if "norm." not in name and not torch.equal(before[name], after[name])]
        assert not changed
    logged += run.train(1, 3)
    return [(out.skipped, torch.isfinite(torch.tensor(out.grad_norm)).item()) for out in logged]


@pytest.mark.parametrize("engine", ["ddp", "zero0", "hybrid", *SHARDED])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_ranks_infinity_is_skipped_by_all(engine: str, precision: str) -> None:
    if precision == "fp16" and engine.startswith("zero"):
        pytest.skip("DeepSpeed has no fp16 on the CPU")
    first, second = run_ranks(poisoned, engine, Precision(fp16=precision == "fp16"))
    assert first == second
    assert first[0] == (True, False)
    assert first[-1] == (False, True)
    assert precision == "fp16" or first[1] == (False, True)  # fp16's first scale is too large by itself
