"""How a run ended: its status, its one-line error, and the exit code of the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..run import directory as run_directory
from ..run.directory import Status

EXIT_CODES = {Status.completed: 0, Status.failed: 1, Status.preempted: 75, Status.stopped: 130}
WRONG_CONFIG = 2
"""Exit code of every command when the configuration, or the question, is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one rank ended, or a whole run."""

    status: Status
    error: str | None = None
    """What went wrong, on one line; of several ranks, with the rank and host of the first cause."""
    trace: str = ""
    """The traceback, formatted."""
    lost_peer: bool = False
    """The error is about communication: another rank's failure is the cause."""
    silent: bool = False
    """The rank was still running when the launcher gave up on it."""
    final: bool = False
    """Another attempt would fail the same way: ranks are not restarted."""
    wrong_config: bool = False
    """The error is a ConfigError's lines, for the user alone to mend."""
    exception: BaseException | None = None
    """The exception itself; None when it was raised in another process."""
    model: Any = None
    """The trained nn.Module; None when it was trained in another process."""

    def picklable(self) -> Outcome:
        """The outcome without what stays in the process that trained."""
        return replace(self, exception=None, model=None)


def first_cause(outcomes: Iterable[tuple[int, Outcome]]) -> tuple[int, Outcome]:
    """The rank and outcome that explain how a run ended, of pairs in the order in which the ranks ended.

    The first failure that is not the consequence of another rank's; without a failure, the outcome of rank 0.
    """
    ended = list(outcomes)
    failed = [item for item in ended if item[1].status is Status.failed]
    consequences = [item for item in failed if item[1].lost_peer]
    causes = [item for item in failed if not item[1].lost_peer and not item[1].silent]
    silent = [item for item in failed if item[1].silent]
    if silent and consequences and not causes:  # a rank that hangs reports nothing; the ranks that waited for it do
        (rank, outcome), (peer, consequence) = silent[0], consequences[0]
        error = f"{outcome.error}, and rank {peer} waited in vain: {consequence.error}"
        return rank, replace(outcome, error=error, trace=consequence.trace)
    return next(iter(causes or failed or sorted(ended, key=lambda item: item[0])))


def close(directory: Path, outcome: Outcome) -> None:
    """Write how the run ended: the manifest's last fields, and after a failure the traceback in train.log."""
    if outcome.error:
        append_to_log(directory, f"{outcome.error}\n{outcome.trace}")
    final = {"final": True} if outcome.error and outcome.final else {}
    run_directory.finish(directory, outcome.status, error=outcome.error, **final)


def report(directory: Path, outcome: Outcome) -> int:
    """Print the error, if there is one, on one line of stderr; the exit code."""
    if outcome.wrong_config and os.environ.get("HYDRA_FULL_ERROR") != "1":
        print(outcome.error, file=sys.stderr)
        return WRONG_CONFIG
    if outcome.error:
        from ..logging.log_file import FILE

        print(f"error: {outcome.error}; traceback: {directory / FILE}", file=sys.stderr)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            print(outcome.trace, file=sys.stderr)
    return WRONG_CONFIG if outcome.wrong_config else EXIT_CODES[outcome.status]


def append_to_log(directory: Path, text: str) -> None:
    """Add to train.log from outside of a rank's logging."""
    from ..logging.log_file import FILE

    with (directory / FILE).open("a", encoding="utf-8") as file:
        file.write(text)


def exit_code(action: Callable[[], int]) -> int:
    """What ``action`` returns; WRONG_CONFIG once every problem of a ConfigError is printed on a line of stderr."""
    try:
        return action()
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print("\n".join(error.lines()), file=sys.stderr)
        return WRONG_CONFIG
