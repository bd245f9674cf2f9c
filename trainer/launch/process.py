"""One host of child processes, for the ranks of a run and the trials of a sweep."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that end a run with a checkpoint: they are forwarded to its processes."""
START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from trainer.launch.process import child_main; child_main()"
)


class ProcessDied(RuntimeError):
    """A child process ended without a result; the message says how, such as `killed by SIGKILL`."""


class Process(Generic[T]):
    """A new Python process that calls ``function(*arguments)`` and sends back what it returns.

    It is not a fork: nothing is shared with this process but sys.path, the working directory and the environment. It
    leads a process group of its own, so that Ctrl-C reaches it once, forwarded by `forward_signals`.

    Args:
        function: a function of a module; what it returns is pickled.
        arguments: its arguments, pickled.
        environment: variables set on top of this process's.
        death_signal: what the kernel sends the child when this process dies (Linux).
        dumps: pickles the function and its arguments.
    """

    def __init__(
        self,
        function: Callable[..., T],
        *arguments: Any,
        environment: Mapping[str, str],
        death_signal: signal.Signals,
        dumps: Callable[[Any], bytes] = pickle.dumps,
    ) -> None:
        receiver, sender = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            env=os.environ | environment | {"TRAINER_RESULT_FD": str(sender)},
            pass_fds=[sender],
            process_group=0,
        )
        os.close(sender)
        self.pipe = os.fdopen(receiver, "rb")
        """Readable once the function has returned or the process has died."""
        assert self.process.stdin is not None
        try:  # a pickle to our own child, through a pipe that nobody else can write to
            self.process.stdin.write(pickle.dumps(sys.path) + pickle.dumps((os.getpid(), death_signal)))
            self.process.stdin.write(dumps((function, arguments)))
            self.process.stdin.close()
        except BrokenPipeError:  # it died before reading: result() says how
            pass

    def result(self) -> T:
        """What the function returned; blocks until the process has ended.

        Raises:
            ProcessDied: it ended before the function returned.
        """
        with self.pipe:
            data = self.pipe.read()
        code = self.process.wait()
        if data:
            result: T = pickle.loads(data)
            return result
        if code < 0:
            raise ProcessDied(f"killed by {signal.Signals(-code).name}")
        raise ProcessDied(f"exited with code {code} before its end")

    def is_stopped(self) -> bool:
        """Whether a SIGSTOP (or a debugger) holds the process (Linux)."""
        state = Path(f"/proc/{self.process.pid}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] in "Tt"

    def kill(self) -> None:
        """End the process at once, if it is still running."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def child_main() -> None:
    """The child's side: read the function and its arguments from stdin, write what it returns to the pipe."""
    parent, death_signal = pickle.load(sys.stdin.buffer)
    die_with_parent(death_signal)
    if os.getppid() != parent:
        os._exit(1)
    function, arguments = pickle.load(sys.stdin.buffer)
    result = function(*arguments)
    with os.fdopen(int(os.environ["TRAINER_RESULT_FD"]), "wb") as pipe:
        pickle.dump(result, pipe)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)


@contextmanager
def forward_signals(processes: Sequence[Process[Any]]) -> Iterator[list[int]]:
    """Forward SIGNALS to ``processes``, which may grow meanwhile; the list of those forwarded so far.

    Only the main thread can handle signals; in another thread nothing is forwarded.
    """
    forwarded: list[int] = []

    def forward(number: int, frame: object) -> None:
        forwarded.append(number)
        for process in processes:
            process.process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield forwarded
        return
    previous = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield forwarded
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def signals_held() -> Iterator[None]:
    """Block SIGNALS in this thread, and in the processes that it starts, until a handler unblocks them or the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
