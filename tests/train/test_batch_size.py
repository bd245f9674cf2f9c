"""train.auto_find_batch_size: a run that ran out of memory is the run that began with the size that fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import jobs
from tests.jobs import make_config
from tests.tiny import Blocks
from tests.train.test_resume import KILLED, assert_same, killed_at
from trainer import distributed
from trainer.run import directory as run_directory
from trainer.schema import Config
from trainer.schema.evaluation import Evaluation
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Single
from trainer.schema.train import Train
from trainer.train import batch_size


class Hungry(Blocks):
    """Stands in for a GPU: more samples than ``fits`` at once do not fit, on all ranks or on one, from a call on."""

    def __init__(self, fits: int, rank: int | None = None, calls: int = 0) -> None:
        super().__init__()
        self.fits, self.rank, self.calls, self.called = fits, rank, calls, 0

    def forward(self, x: Tensor) -> Tensor:
        self.called += self.training
        if (
            self.training
            and len(x) > self.fits
            and self.called > self.calls
            and self.rank in (None, distributed.rank())
        ):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().forward(x)


def hungry(parallel: Any = None, *, size: int = 8, find: bool = True, callbacks: Any = None, **model: Any) -> Config:
    return make_config(
        model={"_target_": "tests.train.test_batch_size.Hungry", **model},
        train=Train(per_device_train_batch_size=size, max_steps=8, auto_find_batch_size=find),
        parallel=parallel or Single(),
        callbacks=callbacks or {},
        evaluation=Evaluation(),
    )


@pytest.mark.parametrize("calls", [0, 5])
def test_it_shrinks_by_a_tenth_until_it_fits(tmp_path: Path, calls: int) -> None:
    assert jobs.train(hungry(fits=5, calls=calls), tmp_path / "found") == [0]
    assert jobs.train(hungry(fits=5, size=5, find=False), tmp_path / "given") == [0]
    assert_same(tmp_path / "found", tmp_path / "given")
    assert run_directory.read(tmp_path / "found")["train_batch_size"] == 5


def test_it_goes_on_with_the_size_it_found(tmp_path: Path) -> None:
    assert jobs.train(hungry(fits=5, size=5, find=False), tmp_path / "given") == [0]
    assert jobs.train(hungry(fits=5, callbacks=killed_at(5)), tmp_path / "run") == KILLED
    assert jobs.train(hungry(fits=5), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", tmp_path / "given")


def test_without_it_the_run_fails(tmp_path: Path) -> None:
    assert jobs.train(hungry(fits=5, find=False), tmp_path / "run") == [1]


def test_when_not_even_one_sample_fits(tmp_path: Path) -> None:
    assert jobs.train(hungry(fits=0), tmp_path / "run") == [1]


@pytest.mark.parametrize(
    ("parallel", "ranks", "rank"),
    [
        pytest.param(DDP, 2, None, id="ddp-2"),
        pytest.param(DDP, 3, 1, id="ddp-3-one-alone"),
        pytest.param(FSDP, 2, None, id="fsdp-2"),
        pytest.param(FSDP, 2, 1, id="fsdp-2-one-alone"),
        *(
            pytest.param(partial(DeepSpeed, zero_stage=stage), 2, 1, id=f"zero{stage}", marks=pytest.mark.slow)
            for stage in (1, 2, 3)
        ),
    ],
)
def test_all_ranks_shrink_together(tmp_path: Path, parallel: Callable[[], Any], ranks: int, rank: int | None) -> None:
    found = hungry(parallel(), fits=5, size=6, rank=rank, calls=2)
    given = hungry(parallel(), fits=5, size=5, find=False)
    assert jobs.train(found, tmp_path / "found", world_size=ranks) == [0] * ranks
    assert jobs.train(given, tmp_path / "given", world_size=ranks) == [0] * ranks
    assert_same(tmp_path / "found", tmp_path / "given")


def test_errors_of_memory_and_others() -> None:
    assert batch_size.is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert batch_size.is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert batch_size.is_out_of_memory(MemoryError())
    assert not batch_size.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not batch_size.is_out_of_memory(ValueError("out of memory"))
    assert not batch_size.does_not_fit(torch.OutOfMemoryError("CUDA out of memory."), 1)
