"""Child processes of a test: forked in milliseconds, each with a hard timeout that prints its stacks.

`run_ranks` returns what a function returned on each of several gloo ranks. `exit_code` and `exit_codes` return how
children ended, for those that are killed. No child outlives the test process, and `reap` finds what a test left behind.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache, partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any

import pytest
import torch

from tests.devices import needs_gpus, own_device
from trainer import distributed
from trainer.checkpoint.failpoints import passes

TIMEOUT_S = 60.0
RENDEZVOUS_S = 30.0
"""How long a rank waits for the others of its process group."""

_running: set[int] = set()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@cache
def preload() -> None:
    """Import what ranks would each import for seconds. Call it before forking children that use DeepSpeed."""
    import torch.distributed.fsdp
    import torch.distributed.tensor

    environment = dict(os.environ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not torch.cuda.device_count():  # unlike is_available, this leaves CUDA usable in forked children
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401
    os.environ.clear()
    os.environ.update(environment)


# Ranks that return a result ------------------------------------------------------------------------------------------


def run_ranks(function: Callable[..., Any], *args: Any, world_size: int = 2, timeout: float = TIMEOUT_S) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes with torchrun's environment; results in rank order.

    The function joins a process group itself, or builds an engine that does. Results must be picklable. A rank that is
    not done after ``timeout`` seconds prints its stacks and dies; any failure fails the caller, with the ranks'
    tracebacks.
    """
    needs_gpus(world_size)
    preload()
    port, children, pipes = free_port(), [], []
    for rank in range(world_size):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        variables = _torchrun(rank, world_size, port)
        children.append(fork(partial(_send_result, sender, variables, function, args), timeout=timeout))
        sender.close()
        pipes.append(receiver)
    try:
        results, failures = _receive(children, pipes, time.monotonic() + timeout + 5)
        if len(results) == world_size:
            for child in children:
                wait(child, 10)
    finally:
        for child in children:
            kill(child)
        for receiver in pipes:
            receiver.close()
    if len(results) < world_size:
        missing = {rank: "did not finish" for rank in range(world_size) if rank not in results}
        text = "\n".join(f"--- rank {rank}:\n{error}" for rank, error in sorted((missing | failures).items()))
        raise AssertionError(f"{len(missing)} of {world_size} ranks failed\n{text}")
    return [results[rank] for rank in range(world_size)]


def _torchrun(rank: int, world_size: int, port: int) -> dict[str, str]:
    sizes = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    return sizes | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _send_result(sender: Connection, variables: dict[str, str], function: Callable[..., Any], args: Any) -> None:
    os.environ |= variables
    try:
        message = (True, function(*args))
    except BaseException:
        message = (False, traceback.format_exc())
    sender.send(message)
    sender.close()
    distributed.close()


def _receive(children: list[int], pipes: list[Connection], deadline: float) -> tuple[dict[int, Any], dict[int, str]]:
    """Results and tracebacks by rank, until all ranks have sent one or the deadline has passed."""
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(pipes) and time.monotonic() < deadline:
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results and rank not in failures]
        for pipe in wait_for_any(waiting, timeout=1):
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                succeeded, value = pipe.recv()
            except EOFError:
                succeeded, value = False, f"died with exit code {wait(children[rank], 5)}"
            (results if succeeded else failures)[rank] = value
        if failures:  # the others may wait for the dead one: give their own errors a moment
            deadline = min(deadline, time.monotonic() + 5)
    return results, failures


# Children that return an exit code -----------------------------------------------------------------------------------


def exit_code(action: Callable[[], object], failpoints: str = "") -> int:
    """Run ``action`` in a child; its exit code: 0 unless it raises, negative for a signal."""
    return wait(fork(action, failpoints))


def exit_codes(action: Callable[[], object], world_size: int, failpoints: str = "") -> list[int]:
    """Run ``action`` on as many ranks of a gloo group; their exit codes."""
    needs_gpus(world_size)
    port = free_port()

    def on_rank(rank: int) -> None:
        os.environ |= _torchrun(rank, world_size, port)
        distributed.init(None, RENDEZVOUS_S, own_device())
        action()
        distributed.barrier()
        distributed.close()

    children = [fork(partial(on_rank, rank), failpoints) for rank in range(world_size)]
    try:
        return [wait(child) for child in children]
    finally:
        for child in children:
            kill(child)


def exit_code_killed_at(action: Callable[[], object], syscalls: str, time_: int) -> int:
    """Kill a child (-9) at the ``time_``-th of its system calls that match a pattern; 0 if there were fewer."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    gate, opener = os.pipe()

    def gated() -> None:
        os.close(opener)
        os.read(gate, 1)
        action()

    child = fork(gated)
    inject = f"inject=/^({syscalls})$:signal=KILL:when={time_}"
    tracer = subprocess.Popen([strace, "-f", "-p", str(child), "-e", inject, "-o", os.devnull], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    first = tracer.stderr.readline().decode()
    os.write(opener, b"x")
    os.close(opener)
    os.close(gate)
    code = wait(child)
    tracer.stderr.close()
    tracer.wait(TIMEOUT_S)
    if not re.search("attached", first):
        pytest.skip(f"strace cannot attach here: {first.strip()}")
    return code


# One child -----------------------------------------------------------------------------------------------------------


def fork(action: Callable[[], object], failpoints: str = "", *, timeout: float = TIMEOUT_S) -> int:
    """Start ``action`` in a child; the child's process id. After ``timeout`` seconds it prints its stacks and dies."""
    assert not torch.cuda.is_initialized(), "CUDA does not survive a fork: use the device only in a test's children"
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking with threads
        child = os.fork()
    if child:
        _running.add(child)
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
        faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__)
        _running.clear()
        torch.set_num_threads(1)  # libgomp's threads do not survive a fork; and one thread and two differ in bits
        warnings.resetwarnings()  # a run of its own, whose libraries may warn
        os.environ["TRAINER_FAILPOINTS"] = failpoints
        passes.clear()
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int, timeout: float = TIMEOUT_S + 5) -> int:
    """The child's exit code, negative for a signal (as subprocess has it)."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _running.discard(child)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    kill(child)
    raise TimeoutError(f"child {child} hung for {timeout} s")


def kill(child: int) -> None:
    """End a child that was not waited for."""
    if child in _running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _running.discard(child)


def reap() -> list[int]:
    """Kill the children that nobody waited for; their process ids."""
    left = sorted(_running)
    for child in left:
        kill(child)
    return left
