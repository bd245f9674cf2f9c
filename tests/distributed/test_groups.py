"""Small agreements: identities in one process, the same answer on every rank in several."""

from __future__ import annotations

from typing import Any

import torch

from tests.ranks import run_ranks
from trainer import distributed


def test_alone_everything_is_an_identity() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.is_main()
    assert distributed.broadcast({"a": 1}) == {"a": 1}
    assert distributed.gather("x") == ["x"]
    assert (distributed.all_max(3), distributed.all_or(5), distributed.all_sum(7)) == (3, 5, 7)
    tensor = torch.ones(2)
    assert distributed.all_reduce_sum(tensor) is tensor
    assert tensor.tolist() == [1, 1]
    distributed.barrier()
    distributed.close()


def agree() -> dict[str, Any]:
    assert distributed.world_size() == 2  # known before the group is
    distributed.init(None, 30, torch.device("cpu"))
    distributed.init(None, 30, torch.device("cpu"))
    rank = distributed.rank()
    distributed.barrier()
    return {
        "broadcast": distributed.broadcast({"from": rank}),
        "gather": distributed.gather({"from": rank}),
        "max": distributed.all_max(10 - rank),
        "or": distributed.all_or(1 << rank),
        "sum": distributed.all_sum(rank + 1),
        "tensor": distributed.all_reduce_sum(torch.tensor([1.0, rank])).tolist(),
    }


def test_ranks_agree() -> None:
    first, second = run_ranks(agree)
    assert first.pop("gather") == [{"from": 0}, {"from": 1}]
    assert second.pop("gather") is None
    assert first == second == {"broadcast": {"from": 0}, "max": 10, "or": 3, "sum": 3, "tensor": [2, 1]}


def alone() -> tuple[int, int, int]:
    distributed.init("gloo", 30, torch.device("cpu"))
    return distributed.world_size(), distributed.all_or(2), len(distributed.gather(1) or [])


def test_a_group_of_one_needs_no_port() -> None:
    assert run_ranks(alone, world_size=1) == [(1, 2, 1)]
