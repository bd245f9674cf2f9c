"""Pieces of a test in forked children that may be killed, with a hard timeout. Milliseconds each: torch is loaded."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch

from trainer import distributed
from trainer.checkpoint.failpoints import passes

TIMEOUT_S = 30.0


def fork(action: Callable[[], object], failpoints: str = "") -> int:
    """Start ``action`` in a child; the child's process id. Exit code 0 unless it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forking with threads
        child = os.fork()
    if child:
        return child
    code = 1
    try:
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


def wait(child: int) -> int:
    """The child's exit code, negative for a signal (as subprocess has it)."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError(f"child {child} hung for {TIMEOUT_S} s")


def run(action: Callable[[], object], failpoints: str = "") -> int:
    """Both."""
    return wait(fork(action, failpoints))


def run_ranks(action: Callable[[], object], world_size: int, failpoints: str = "") -> list[int]:
    """Run ``action`` in as many gloo ranks; their exit codes. A rank that is left waiting ends after TIMEOUT_S."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def rank_action(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        distributed.init("gloo", TIMEOUT_S, torch.device("cpu"))
        action()
        distributed.barrier()
        distributed.close()

    return [wait(child) for child in [fork(partial(rank_action, r), failpoints) for r in range(world_size)]]


def run_killed_at(action: Callable[[], object], syscalls: str, time_: int) -> int:
    """Run with kill -9 at the ``time_``-th of the system calls that match a pattern; 0 when it never came."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    gate, opener = os.pipe()

    def child() -> None:
        os.close(opener)
        os.read(gate, 1)
        action()

    pid = fork(child)
    inject = f"inject=/^({syscalls})$:signal=KILL:when={time_}"
    tracer = subprocess.Popen([strace, "-f", "-p", str(pid), "-e", inject, "-o", os.devnull], stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    first = tracer.stderr.readline().decode()
    os.write(opener, b"x")
    os.close(opener)
    os.close(gate)
    code = wait(pid)
    tracer.stderr.close()
    tracer.wait(TIMEOUT_S)
    if not re.search("attached", first):
        pytest.skip(f"strace cannot attach here: {first.strip()}")
    return code
