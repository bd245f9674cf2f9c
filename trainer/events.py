"""The one dispatcher that calls callbacks and reporters."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from .callbacks.callback import Callback
from .errors import ReporterError, describe
from .logging.reporter import Reporter, Worker
from .rng import preserved_rng
from .run.secrets import mask_overrides
from .state import RunInfo, State

logger = logging.getLogger(__name__)


class Events(Callback):
    """All callbacks as one, and the guarded door to the reporters.

    A hook that no callback overrides stays Callback's empty method, so it costs 50 ns per step. Callbacks are called on
    every rank; ``start``, ``report`` and ``finish`` reach the reporters, which rank 0 alone is given.
    """

    def __init__(
        self,
        callbacks: Mapping[str, Callback],
        reporters: Mapping[str, Reporter] | None = None,
        *,
        timeout: float = 60.0,
    ) -> None:
        for name, callback in callbacks.items():
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks.{name} must be a trainer.Callback, not {type(callback).__name__}")
        self._callbacks = dict(callbacks)
        self._workers = [Worker(name, reporter, timeout) for name, reporter in (reporters or {}).items()]
        for hook, empty in [item for item in vars(Callback).items() if item[0].startswith("on_")]:
            bound = {name: getattr(callback, hook) for name, callback in callbacks.items()}
            listeners = {
                name: method for name, method in bound.items() if getattr(method, "__func__", None) is not empty
            }
            if listeners:
                setattr(self, hook, partial(_tell, hook, listeners))

    def state_dict(self) -> dict[str, Any]:
        return {name: state for name, callback in self._callbacks.items() if (state := callback.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in state.keys() & self._callbacks.keys():
            self._callbacks[name].load_state_dict(state[name])

    def start(self, run: RunInfo, state: State) -> None:
        """Start the reporters; the first that fails stops the run (and those started before it are closed)."""
        if self._workers:
            sys.argv[1:] = mask_overrides(sys.argv[1:])  # which trackers record
        with preserved_rng():
            for position, worker in enumerate(self._workers):
                worker.reporter.progress = lambda: (state.step, state.max_steps)
                if error := worker.call("start", deepcopy(run)):
                    self._workers = self._workers[:position]
                    self.finish("failed")
                    raise ReporterError(worker.name, error) from error

    def report(self, record: dict[str, Any]) -> None:
        """Hand one record to every reporter that still works."""
        self._tell_reporters("log", lambda: dict(record))

    def finish(self, status: str) -> None:
        """Close the reporters. Called once, also after a failure."""
        self._workers.reverse()  # as they were opened: the console's summary comes last
        self._tell_reporters("finish", lambda: status)
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _tell_reporters(self, method: str, argument: Callable[[], Any]) -> None:
        if not self._workers:
            return
        with preserved_rng():
            for worker in list(self._workers):
                if error := worker.call(method, argument()):
                    self._workers.remove(worker)
                    worker.close()
                    logger.warning(
                        "logging.reporters.%s is switched off, the run goes on: its %s() failed: %s",
                        worker.name, method, describe(error), exc_info=error,
                    )  # fmt: skip


def _tell(hook: str, listeners: Mapping[str, Callable[..., None]], *arguments: Any) -> None:
    """Call one hook of every listener; an exception goes through with a note that names the callback."""
    for name, method in listeners.items():
        where = f"in callbacks.{name}.{hook}"
        try:
            method(*arguments)
        except SystemExit as error:
            raise RuntimeError(f"sys.exit({error.code!r}) {where}") from error
        except Exception as error:
            if hook != "on_exception":
                error.add_note(where)
                raise
            # The run is already ending with an error of its own, which must stay the one that is told.
            logger.error("%s: %s", where, describe(error), exc_info=error)
