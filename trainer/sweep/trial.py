"""One trial of a sweep: a run in a process of its own, so that no way of dying ends the sweep."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from ..config.composer import Composition
from ..launch import start
from ..launch.outcome import EXIT_CODES, WRONG_CONFIG, exit_code
from ..launch.prepared import Prepared
from ..launch.process import Process, ProcessDied, forward_signals
from ..run import directory as run_directory
from ..run.directory import Status
from ..schema import Config

STOPPED: dict[int, Status] = {
    signal.SIGINT: Status.stopped,
    signal.SIGTERM: Status.preempted,
    signal.SIGUSR1: Status.preempted,
}
"""Signals that end a sweep -> how it ends."""


@dataclass(slots=True)
class Trial:
    """One combination of the swept values, checked."""

    number: int
    composition: Composition
    config: Config
    overrides: list[str]
    directory: Path
    words: str
    """The overrides that differ from trial to trial."""

    def prepare(self) -> Prepared:
        """Claim the directory.

        Raises:
            ConfigError: it holds another run, or cannot be made.
        """
        return start.prepare(self.composition, self.config, self.overrides, self.directory)

    def run(self) -> tuple[int, str]:
        """Run the trial; its exit code, and in words how it ended. Signals that arrive meanwhile are forwarded.

        Raises:
            ConfigError: the directory holds another run, or cannot be made.
        """
        prepared = self.prepare()
        # a sweep that is killed has its trial save a checkpoint
        process = Process(_run, prepared, environment=prepared.environment, death_signal=signal.SIGTERM)
        with forward_signals([process]) as forwarded:
            try:
                code = process.result()
                end = _describe(code, self.directory)
            except ProcessDied as died:
                code, end = EXIT_CODES[Status.failed], str(died)
        if code == WRONG_CONFIG:  # it never began: another process runs it
            return code, end
        if run_directory.read(self.directory).get("status") in (None, Status.running):  # it could not say so itself
            run_directory.finish(self.directory, Status.failed, error=end)
        return EXIT_CODES[STOPPED[forwarded[-1]]] if forwarded and code != 0 else code, end


def _run(prepared: Prepared) -> int:
    """What the trial's process calls."""
    return exit_code(lambda: start.start(prepared))


def _describe(code: int, directory: Path) -> str:
    """An exit code in words."""
    words = {number: str(status) for status, number in EXIT_CODES.items() if status is not Status.failed}
    return words.get(code, f"failed with exit code {code} (see {directory / 'train.log'})")
