"""Who and how many we are, and the ranks' small agreements. Everything is an identity in a single process."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_control: dist.ProcessGroup | None = None
"""Gloo group on the CPU for what the ranks agree on: flags neither wait for a GPU nor mix with gradient traffic."""

_store: Any = None
"""Where the ranks meet again after ``close``, between keep_store and forget_store."""
_meetings = 0


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of ranks, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """This process's number on its machine, 0 in a single process."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def is_main() -> bool:
    """True on rank 0: the one that writes and reports."""
    return rank() == 0


def init(backend: str | None, timeout_s: float, device: torch.device) -> None:
    """Join the process group named by the environment, or make one of a single rank. A second call does nothing."""
    global _control
    if dist.is_initialized():
        return
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    timeout = timedelta(seconds=timeout_s)
    device_id = device if device.type == "cuda" and backend == "nccl" else None
    if world_size() == 1:  # no port, no environment: a store within this process
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout, device_id=device_id)
        return
    if _store is None:
        dist.init_process_group(backend, timeout=timeout, device_id=device_id)
    else:
        again = dist.PrefixStore(f"trainer/{_meetings}", _store)  # type: ignore[attr-defined]
        here = {"rank": rank(), "world_size": world_size()}
        dist.init_process_group(backend, store=again, timeout=timeout, device_id=device_id, **here)
    _control = dist.new_group(backend="gloo", timeout=timeout)


def close() -> None:
    """Leave the process group, if there is one."""
    global _control
    _control = None
    if dist.is_initialized():
        dist.destroy_process_group()


def keep_store() -> None:
    """From here on the ranks can leave their process group and make another; and tell each other what went wrong when
    no collective works any more."""
    global _store, _meetings
    if _control is not None and _store is None:
        _store = dist.distributed_c10d._get_default_store()
    _meetings += 1


def forget_store() -> None:
    """The end of what keep_store began."""
    global _store
    _store = None


def raise_flag(name: str) -> None:
    """Tell the other ranks something, without their help; needs keep_store."""
    if _store is not None:
        _store.set(f"trainer/{_meetings}/{name}", "1")


def flag_is_up(name: str) -> bool:
    """Whether any rank raised this flag since the last keep_store; needs keep_store."""
    return _store is not None and bool(_store.check([f"trainer/{_meetings}/{name}"]))


def barrier() -> None:
    """Wait until every rank is here."""
    if _control is not None:
        dist.barrier(group=_control)


def broadcast(value: T) -> T:
    """Rank 0's ``value`` (small, JSON-able), on every rank."""
    if _control is None:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control)
    return box[0]


def gather(value: T) -> list[T] | None:
    """Every rank's ``value`` (JSON-able, or numpy arrays) in rank order on rank 0, None elsewhere."""
    if _control is None:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values, dst=0, group=_control)
    return values


def all_max(value: int) -> int:
    """The largest of the ranks' numbers, on every rank."""
    return value if _control is None else _reduce(value, dist.ReduceOp.MAX, _control)


def all_or(flags: int) -> int:
    """The union of the ranks' bit masks, on every rank: what any one wishes, all do."""
    return flags if _control is None else _reduce(flags, dist.ReduceOp.BOR, _control)


def all_sum(value: int) -> int:
    """The sum of the ranks' numbers, on every rank."""
    return value if _control is None else _reduce(value, dist.ReduceOp.SUM, _control)


def _reduce(value: int, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup) -> int:
    box = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(box, op, group=group)
    return int(box)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum ``tensor`` over the ranks, in place, on its own device."""
    if _control is not None:
        dist.all_reduce(tensor)
    return tensor
