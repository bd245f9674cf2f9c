"""Real ranks on the CPU: run_ranks calls a function in several gloo processes and hands back what each returned."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

# Ranks are forked from a server that has imported torch (and used nothing of it): 0.1 s instead of 3 s each.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preload"])


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_ranks(function: Callable[..., Any], *args: Any, world_size: int = 2, timeout: float = 60) -> list[Any]:
    """``function(*args)`` in ``world_size`` processes with torchrun's environment; results in rank order.

    A rank that is not done after ``timeout`` seconds prints its stacks and dies; any failure fails the caller, with the
    ranks' tracebacks. Function, arguments and results must be picklable.
    """
    port = free_port()
    ranks, pipes = [], []
    for rank in range(world_size):
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        job = (sender, function, args, rank, world_size, port, timeout)
        process = _CONTEXT.Process(target=_rank, args=job, name=f"rank {rank}")
        process.start()
        sender.close()
        ranks.append(process)
        pipes.append(receiver)
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    deadline = time.monotonic() + timeout + 5
    try:
        while len(results) + len(failures) < world_size and time.monotonic() < deadline:
            waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results and rank not in failures]
            for pipe in wait(waiting, timeout=1):
                assert isinstance(pipe, Connection)
                rank = pipes.index(pipe)
                try:
                    ok, value = pipe.recv()
                except EOFError:
                    ranks[rank].join(5)
                    ok, value = False, f"died with exit code {ranks[rank].exitcode}"
                (results if ok else failures)[rank] = value
            if failures:  # the others may wait for the dead one: give their own errors a moment
                deadline = min(deadline, time.monotonic() + 5)
    finally:
        for process in ranks:
            if len(results) == world_size:
                process.join(10)
            process.kill()
            process.join()
    if len(results) < world_size:
        missing = {rank: "did not finish" for rank in range(world_size) if rank not in results}
        text = "\n".join(f"--- rank {rank}:\n{error}" for rank, error in sorted((missing | failures).items()))
        raise AssertionError(f"{len(missing)} of {world_size} ranks failed\n{text}")
    return [results[rank] for rank in range(world_size)]


def _rank(
    sender: Connection, function: Callable[..., Any], args: Any, rank: int, world: int, port: int, timeout: float
) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world)}
    import torch

    from trainer import distributed

    torch.set_num_threads(1)
    try:
        message = (True, function(*args))
    except BaseException:
        message = (False, traceback.format_exc())
    sender.send(message)
    sender.close()
    distributed.close()
