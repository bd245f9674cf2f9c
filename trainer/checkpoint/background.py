"""One action at a time beside the training, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from .. import distributed

T = TypeVar("T")


class Background(Generic[T]):
    """Runs an action while the training goes on. Its collectives have a process group of their own: on the training's
    they would meet the wrong partners. A daemon thread: a rank that fails does not wait for it.
    """

    def __init__(self) -> None:
        distributed.open_background()
        self._running: Future[T] | None = None

    def start(self, action: Callable[[], T]) -> None:
        """Start ``action``; call ``wait`` first, so that there is never more than one."""
        assert self._running is None
        future: Future[T] = Future()

        def serve() -> None:
            try:
                with distributed.in_background():
                    future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        self._running = future
        threading.Thread(target=serve, name="background", daemon=True).start()

    def wait(self) -> T | None:
        """The result of what was started, None when nothing is under way; raises what it raised."""
        running, self._running = self._running, None
        return None if running is None else running.result()
