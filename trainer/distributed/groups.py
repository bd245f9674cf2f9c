"""Rank, world size, and small collectives on the CPU. In a single process every collective returns its argument."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

__all__ = [
    "all_max",
    "all_or",
    "all_reduce_sum",
    "all_sum",
    "barrier",
    "broadcast",
    "close",
    "flag_is_up",
    "forget_store",
    "gather",
    "hang_up",
    "in_background",
    "init",
    "is_main",
    "keep_store",
    "local_rank",
    "local_world_size",
    "open_background",
    "raise_flag",
    "rank",
    "world_size",
]

T = TypeVar("T")

_control: dist.ProcessGroup | None = None
"""Gloo group for small collectives: flags neither wait for a GPU nor mix with gradient traffic."""

_background: dist.ProcessGroup | None = None
"""The same for a background thread, from open_background to close."""

_thread = threading.local()

_store: Any = None
"""Lets the ranks form a new process group after ``close``; from keep_store to forget_store."""
_meetings = 0
_sockets: set[tuple[int, int]] = set()
"""File descriptor and inode of each gloo connection to another rank."""


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of ranks, 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """This process's number on its machine, 0 in a single process."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


def local_world_size() -> int:
    """Number of processes on this machine, as the launcher says; all of them where it says nothing."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_main() -> bool:
    """True on rank 0, which writes files and reports."""
    return rank() == 0


def init(backend: str | None, timeout_s: float, device: torch.device) -> None:
    """Join the process group that the environment names, or form one of a single rank; a second call does nothing.

    Args:
        backend: torch's; None is nccl on a GPU and gloo on the CPU.
        timeout_s: how long a collective may take, in seconds.
        device: this rank's.
    """
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
    before = _open_sockets()
    if _store is None:
        dist.init_process_group(backend, timeout=timeout, device_id=device_id)
    else:
        again = dist.PrefixStore(f"trainer/{_meetings}", _store)  # type: ignore[attr-defined]
        dist.init_process_group(
            backend, store=again, rank=rank(), world_size=world_size(), timeout=timeout, device_id=device_id
        )
    _control = dist.new_group(backend="gloo", timeout=timeout)
    _sockets.clear()
    _sockets.update(_open_sockets() - before)


def _group() -> dist.ProcessGroup | None:
    """The process group of this thread's collectives."""
    return getattr(_thread, "group", _control)


def open_background() -> None:
    """Form the process group of in_background. Collective."""
    global _background
    if _control is not None and _background is None:
        _background = dist.new_group(backend="gloo")


@contextmanager
def in_background() -> Iterator[None]:
    """While inside, this thread's collectives use a process group of their own."""
    _thread.group = _background
    try:
        yield
    finally:
        del _thread.group


def close() -> None:
    """Leave the process group, if there is one."""
    global _control, _background
    _control = _background = None
    if dist.is_initialized():
        dist.destroy_process_group()


def keep_store() -> None:
    """Let the ranks close their process group and form another, and raise flags where no collective works any more."""
    global _store, _meetings
    if _control is not None and _store is None:
        _store = dist.distributed_c10d._get_default_store()
    _meetings += 1


def forget_store() -> None:
    """End what keep_store began."""
    global _store
    _store = None


def raise_flag(name: str) -> None:
    """Raise a flag that the other ranks can see, without a collective; needs keep_store."""
    if _store is not None:
        _store.set(f"trainer/{_meetings}/{name}", "1")


def flag_is_up(name: str) -> bool:
    """Whether any rank raised this flag since the last keep_store; needs keep_store."""
    return _store is not None and bool(_store.check([f"trainer/{_meetings}/{name}"]))


def hang_up() -> None:
    """Break the gloo connections to the other ranks, so that a rank that waits for this one gets an error.

    Destroying the process groups is not enough, since torch's caches may keep them alive; aborting them does nothing
    (torch 2.13).
    """
    for fd, _ in _sockets & _open_sockets():
        # OSError: a listening socket, or one that gloo closed because the other side hung up
        with suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
            if connection.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            ports = connection.getsockname()[1], connection.getpeername()[1]
            if int(os.environ.get("MASTER_PORT", 0)) not in ports:  # the store's
                connection.shutdown(socket.SHUT_RDWR)


def _open_sockets() -> set[tuple[int, int]]:
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the listing's own
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add((int(name), status.st_ino))
    return found


def barrier() -> None:
    """Wait until every rank has called this."""
    if (group := _group()) is not None:
        dist.barrier(group=group)


def broadcast(value: T) -> T:
    """Rank 0's ``value`` (small, serializable as JSON) on every rank."""
    if (group := _group()) is None:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def gather(value: T) -> list[T] | None:
    """Every rank's ``value`` (serializable as JSON, or numpy arrays), in rank order on rank 0; None elsewhere."""
    if (group := _group()) is None:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values, dst=0, group=group)
    return values


def all_max(value: int) -> int:
    """The largest of the ranks' numbers, on every rank."""
    return _reduce(value, dist.ReduceOp.MAX)


def all_or(flags: int) -> int:
    """The union of the ranks' bit masks, on every rank."""
    return _reduce(flags, dist.ReduceOp.BOR)


def all_sum(value: int) -> int:
    """The sum of the ranks' numbers, on every rank."""
    return _reduce(value, dist.ReduceOp.SUM)


def _reduce(value: int, op: dist.ReduceOp.RedOpType) -> int:
    if (group := _group()) is None:
        return value
    box = torch.tensor(value, dtype=torch.int64)
    dist.all_reduce(box, op, group=group)
    return int(box)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum ``tensor`` over the ranks, in place, on its own device."""
    if _control is not None:
        dist.all_reduce(tensor)
    return tensor
