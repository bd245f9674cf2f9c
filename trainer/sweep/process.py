"""A trial's process: the frozen config goes in through a pipe, an exit code comes out, whatever happens inside."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from ..cli.train import WRONG_CONFIG
from ..config.composer import Composition
from ..run.claim import claim_exactly
from ..run.directory import Status, finish, read
from ..schema import Config

STOPPED: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR1: 75}
"""Signals that end a sweep -> its exit code."""
START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from trainer.sweep.trial import main; sys.exit(main())"
)


class TrialProcess:
    """One trial, running in a process group of its own so that a signal reaches it once, through us."""

    def __init__(
        self, composition: Composition, config: Config, directory: Path, overrides: list[str], argv: list[str]
    ) -> None:
        self.directory, self.resumed = claim_exactly(composition, config, directory)
        config.run.output_dir = str(self.directory)
        self.told: int | None = None
        """The last signal that was passed on."""
        job = composition.cfg.hydra.job
        environment = {**os.environ, **{str(k): str(v) for k, v in job.env_set.items()}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            env=environment,
            process_group=0,
            preexec_fn=_die_with_parent,
        )
        payload: dict[str, Any] = {
            "config": config,
            "directory": self.directory,
            "overrides": overrides,
            "argv": argv,
            "chdir": bool(job.chdir),
        }
        assert self.process.stdin is not None
        try:
            # a pickle from us to our own child, through a pipe nobody else can write to
            self.process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(payload))
            self.process.stdin.close()
        except BrokenPipeError:  # it died before reading: its exit code tells
            pass

    def wait(self) -> int:
        """The exit code, once it has ended; signals that come meanwhile are passed on."""

        def forward(number: int, frame: FrameType | None) -> None:
            self.told = number
            self.process.send_signal(number)

        before = {number: signal.signal(number, forward) for number in STOPPED}
        try:
            code = self.process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if code == WRONG_CONFIG:  # it never began: another process runs it
            return code
        if read(self.directory).get("status") in (None, Status.running):  # it had no chance to say so itself
            code = code or 1  # sys.exit(0) or os._exit(0) in mid-run is no success
            finish(self.directory, Status.failed, error=describe(code, self.directory))
        return STOPPED[self.told] if self.told and code != 0 else code


def describe(code: int, directory: Path) -> str:
    """How a trial ended, in words."""
    if code == 0:
        return "completed"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    words = {75: "preempted", 130: "stopped"}
    return words.get(code, f"failed with exit code {code} (see {directory / 'train.log'})")


def _die_with_parent() -> None:
    """PR_SET_PDEATHSIG (Linux): a sweep that is killed takes its trial with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
