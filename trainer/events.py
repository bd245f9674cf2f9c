"""Callbacks, reporters, and the one dispatcher that calls them."""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from copy import deepcopy
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .build import build
from .rng import preserved_rng
from .run_directory import mask_overrides
from .state import Control, RunInfo, State

logger = logging.getLogger(__name__)


class Callback:
    """Takes part in a run; hooks carry Hugging Face's names. An exception in a hook ends the run.

    Override what is needed. A hook may set ``control``'s flags. ``state_dict`` and ``load_state_dict`` (JSON-able) let
    a callback's own state survive a resume.
    """

    def on_train_begin(self, state: State, control: Control) -> None: ...
    def on_epoch_begin(self, state: State, control: Control) -> None: ...
    def on_step_begin(self, state: State, control: Control) -> None: ...
    def on_step_end(self, state: State, control: Control) -> None: ...
    def on_log(self, state: State, control: Control, logs: dict[str, Any]) -> None: ...
    def on_evaluate(self, state: State, control: Control, metrics: dict[str, float]) -> None: ...
    def on_predict(self, state: State, control: Control, metrics: dict[str, float]) -> None: ...
    def on_save(self, state: State, control: Control, directory: Path) -> None: ...
    def on_epoch_end(self, state: State, control: Control) -> None: ...
    def on_train_end(self, state: State, control: Control) -> None: ...
    def on_exception(self, state: State, control: Control, error: BaseException) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state to keep in checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what state_dict gave."""


class Reporter(ABC):
    """Listens to a run on rank 0 and tells a service or a file. It cannot change or end the run: after its first
    failure it is switched off with one warning; but one that cannot be built stops the run before training.
    """

    progress: Callable[[], tuple[int, int]] = staticmethod(lambda: (0, 0))
    """(steps done, steps in all), set before ``start``. A reporter that shows each step asks from a thread of its own,
    at its own rate: the loop never calls a reporter per step."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Open files or connections, before the first step."""

    @abstractmethod
    def log(self, record: dict[str, Any]) -> None:
        """One record of metrics.jsonl: step, epoch, time and the metrics under Hugging Face's keys."""

    @abstractmethod
    def finish(self, status: str) -> None:
        """Close; status is `completed`, `failed`, `preempted` or `stopped`."""


class ReporterError(RuntimeError):
    """A reporter could not be built or started: the run must not begin."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(
            f"logging.reporters.{name} cannot start: {describe(error)}; fix that, or leave {name} out of `logging=`"
        )


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
                raise TypeError(f"callbacks.{name} must be a trainer.events.Callback, not {type(callback).__name__}")
        self._callbacks = dict(callbacks)
        self._workers = [_Worker(name, reporter, timeout) for name, reporter in (reporters or {}).items()]
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


def build_reporters(nodes: Mapping[str, Any]) -> dict[str, Reporter]:
    """Build `logging.reporters`; one that cannot be built stops the run, named."""
    reporters: dict[str, Reporter] = {}
    with preserved_rng():
        for name, node in nodes.items():
            try:
                reporters[name] = build(node)
                if not isinstance(reporters[name], Reporter):
                    raise TypeError(f"{type(reporters[name]).__name__} is not a trainer.events.Reporter")
            except (Exception, SystemExit) as error:
                raise ReporterError(name, error) from error
    return reporters


def describe(error: BaseException) -> str:
    """An exception on one line: type, message, and the notes that say where it happened."""
    text = " ".join(str(error).split())
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__) + notes


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


class _Worker:
    """One reporter and the daemon thread in which its methods run, so that none can hang or exit the run."""

    def __init__(self, name: str, reporter: Reporter, timeout: float) -> None:
        self.name, self.reporter, self.timeout = name, reporter, timeout
        self._calls: SimpleQueue[tuple[Future[None], str, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"reporter-{name}", daemon=True)
        self._thread.start()

    def call(self, method: str, argument: Any) -> BaseException | None:
        """Run one method while the caller waits; what went wrong, or None."""
        future: Future[None] = Future()
        self._calls.put((future, method, argument))
        try:
            return future.exception(self.timeout)
        except TimeoutError:
            # Whatever it waits for, it must not go on (and draw random numbers) once that returns.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
            )
            return TimeoutError(f"no answer within {self.timeout:g} s (logging.reporter_timeout)")

    def close(self) -> None:
        self._calls.put(None)

    def _serve(self) -> None:
        while call := self._calls.get():
            future, method, argument = call
            try:
                getattr(self.reporter, method)(argument)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
