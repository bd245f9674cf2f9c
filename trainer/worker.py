"""One call after another in a daemon thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """A thread that runs what is submitted, in order. It starts with the first call.

    concurrent.futures has the same interface, but the interpreter waits for its threads at exit: an upload or a service
    that hangs would keep a finished run from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run ``call`` after those submitted before; its result, or what it raised, is the future's."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        if self._thread.ident is None:
            self._thread.start()
        return future

    def interrupt(self) -> None:
        """Raise SystemExit in the call that is running, as soon as it executes Python code."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(SystemExit)
        )

    def close(self) -> None:
        """End the thread after the last submitted call, without waiting for it."""
        self._calls.put(None)

    def _serve(self) -> None:
        while item := self._calls.get():
            future, call = item
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            del item, future, call  # while it waits: a call may hold a copy of the model
