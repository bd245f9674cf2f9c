"""What is DDP's alone: buckets that do not depend on the first batch, and its options."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from tests.devices import CPU
from tests.parallel.test_engines import resume
from tests.parallel.updates import Run, adamw
from tests.ranks import run_ranks
from tests.tiny import Traps
from trainer.parallel import ddp
from trainer.schema.parallel import DDP
from trainer.schema.precision import Precision


def resume_without_settled_buckets(directory: Path) -> bool:
    ddp._settle_buckets = lambda *_: None
    try:
        resume("ddp", Precision(), directory)
    except AssertionError:
        return False
    return True


def test_settled_buckets_are_what_makes_a_resume_exact(tmp_path: Path) -> None:
    assert run_ranks(resume_without_settled_buckets, tmp_path, world_size=3) == [False] * 3


def options() -> tuple[bool, bool, bool, float]:
    node = DDP(ddp_find_unused_parameters=True, ddp_bucket_cap_mb=3, ddp_broadcast_buffers=False, ddp_static_graph=True)
    engine = ddp.DDPEngine(node, precision=Precision(), device=CPU)
    model, _ = engine.setup(Traps(), adamw, max_grad_norm=0)
    assert isinstance(model, DistributedDataParallel)
    return model.find_unused_parameters, model.static_graph, model.broadcast_buffers, model.bucket_bytes_cap / 2**20


def test_options_arrive() -> None:
    assert run_ranks(options) == [(True, True, False, 3)] * 2


def test_one_rank_is_a_plain_model() -> None:
    run = Run("ddp")
    assert type(run.model) is Traps
    assert not torch.distributed.is_initialized()
    assert run.train(0, 2) == Run("single").train(0, 2)
