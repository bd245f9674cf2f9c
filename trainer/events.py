"""The one dispatcher that calls callbacks and reporters."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from .callbacks.callback import Callback, TrainingParts
from .errors import ReporterError, describe
from .logging.reporter import Reporter, ReporterThread
from .rng import preserved_rng
from .secrets import mask_overrides
from .state import RunInfo, State

logger = logging.getLogger(__name__)


class Events(Callback):
    """Calls all callbacks, and the reporters in threads of their own.

    A hook that no callback overrides remains Callback's empty method, which costs 50 ns per step. Callbacks are called
    on every rank. ``start``, ``report`` and ``finish`` call the reporters, which only rank 0 has.
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
        self._threads = [ReporterThread(name, reporter, timeout) for name, reporter in (reporters or {}).items()]
        self._started: list[ReporterThread] = []
        for hook, empty in [item for item in vars(Callback).items() if item[0].startswith("on_")]:
            bound = {name: getattr(callback, hook) for name, callback in callbacks.items()}
            listeners = {
                name: method for name, method in bound.items() if getattr(method, "__func__", None) is not empty
            }
            if listeners:
                setattr(self, hook, partial(_call, hook, listeners))

    def setup(self, parts: TrainingParts) -> None:
        _call("setup", {name: callback.setup for name, callback in self._callbacks.items()}, parts)

    def state_dict(self) -> dict[str, Any]:
        return {name: state for name, callback in self._callbacks.items() if (state := callback.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in state.keys() & self._callbacks.keys():
            self._callbacks[name].load_state_dict(state[name])

    def start(self, run: RunInfo, state: State) -> None:
        """Start the reporters. The first that fails stops the run, and those started before it are finished."""
        if self._threads:
            sys.argv[1:] = mask_overrides(sys.argv[1:])  # trackers record the command line
        with preserved_rng():
            for thread in self._threads:
                thread.reporter.progress = lambda: (state.step, state.max_steps)
                if error := thread.call("start", deepcopy(run)):
                    self.finish("failed")
                    raise ReporterError(thread.name, error) from error
                self._started.append(thread)

    def report(self, record: dict[str, Any]) -> None:
        """Give a copy of one record to every reporter that still works."""
        self._call_reporters("log", lambda: dict(record))

    def finish(self, status: str) -> None:
        """Finish the reporters that were started, and end all threads. A second call does nothing."""
        self._started.reverse()  # as they were opened: the console's summary comes last
        self._call_reporters("finish", lambda: status)
        for thread in self._threads:
            thread.close()
        self._threads, self._started = [], []

    def _call_reporters(self, method: str, argument: Callable[[], Any]) -> None:
        if not self._started:
            return
        with preserved_rng():
            for thread in list(self._started):
                if error := thread.call(method, argument()):
                    self._started.remove(thread)
                    logger.warning(
                        "logging.reporters.%s is switched off, the run goes on: its %s() failed: %s",
                        thread.name, method, describe(error), exc_info=error,
                    )  # fmt: skip


def _call(hook: str, listeners: Mapping[str, Callable[..., None]], *arguments: Any) -> None:
    """Call one hook of every listener; an exception is raised with a note that names the callback."""
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
            # The run is already ending with an error of its own, which must remain the one that is reported.
            logger.error("%s: %s", where, describe(error), exc_info=error)
