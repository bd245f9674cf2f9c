"""The base of every reporter, and the thread in which one runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..build.build import build
from ..errors import ReporterError
from ..rng import preserved_rng
from ..state import RunInfo
from ..worker import Worker


class Reporter(ABC):
    """Listens to a run on rank 0 and reports to a service or a file. It cannot change or end the run: after its first
    failure it is switched off with one warning. Only a reporter that cannot be built or started stops the run, before
    training.
    """

    progress: Callable[[], tuple[int, int]] = staticmethod(lambda: (0, 0))
    """Returns (steps done, total steps); set before ``start``. A reporter that shows every step calls it in a thread of
    its own, at its own rate: the loop never calls a reporter per step."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Open files or connections, before the first step."""

    @abstractmethod
    def log(self, record: dict[str, Any]) -> None:
        """One record of metrics.jsonl: step, epoch, time and the metrics under Hugging Face's keys."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """Close files or connections; ``status`` is `completed`, `failed`, `preempted` or `stopped`."""


def build_reporters(nodes: Mapping[str, Any]) -> dict[str, Reporter]:
    """Build `logging.reporters`. Raises ReporterError, with its name, for one that cannot be built."""
    reporters: dict[str, Reporter] = {}
    with preserved_rng():
        for name, node in nodes.items():
            try:
                reporters[name] = build(node)
                if not isinstance(reporters[name], Reporter):
                    raise TypeError(f"{type(reporters[name]).__name__} is not a trainer.Reporter")
            except (Exception, SystemExit) as error:
                raise ReporterError(name, error) from error
    return reporters


class ReporterThread:
    """One reporter and the thread in which its methods run, so that none can hang or exit the run."""

    def __init__(self, name: str, reporter: Reporter, timeout: float) -> None:
        self.name, self.reporter, self.timeout = name, reporter, timeout
        self._worker = Worker(f"reporter-{name}")

    def call(self, method: str, argument: Any) -> BaseException | None:
        """Run one method and wait for it up to the timeout (s); what went wrong, or None."""
        future = self._worker.submit(partial(getattr(self.reporter, method), argument))
        try:
            return future.exception(self.timeout)
        except TimeoutError:
            # It must not continue, and draw random numbers, once what it waits for answers.
            self._worker.interrupt()
            return TimeoutError(f"no answer within {self.timeout:g} s (logging.reporter_timeout)")

    def close(self) -> None:
        self._worker.close()
