"""Signals become a flag that the loop reads at the end of each step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

PREEMPT = (signal.SIGTERM, signal.SIGUSR1)

last: int | None = None
"""The last signal that this process received, or the ranks that it started; Slurm requeues after SIGUSR1."""


class Interrupts:
    """While active, SIGTERM and SIGUSR1 ask for a checkpoint and exit code 75, Ctrl-C for a checkpoint and 130.

    ``status`` is None, "preempted" or "stopped". A second Ctrl-C raises KeyboardInterrupt at once, and so does any of
    these signals while ``at_once`` is set, because there is no step to wait for. Only the main thread can handle
    signals; in another one ``status`` stays None.
    """

    def __init__(self) -> None:
        self.status: str | None = None
        self.at_once = False
        """True while a run evaluates its final weights or predicts with them."""
        self._previous: dict[int, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        global last
        last = signum
        if signum == signal.SIGINT:
            if self.status == "stopped":
                raise KeyboardInterrupt
            self.status = self.status or "stopped"
        else:
            self.status = "preempted"
        if self.at_once:
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for signum in (*PREEMPT, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._handle)
            # launch blocks them until here: those that came before are handled now
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*PREEMPT, signal.SIGINT))
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()
