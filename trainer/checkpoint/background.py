"""One action at a time beside the training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Generic, TypeVar

from .. import distributed
from ..worker import Worker

T = TypeVar("T")


class Background(Generic[T]):
    """Runs an action while training continues; a rank that fails does not wait for it.

    The action's collectives have a process group of their own: on the training's group they would meet the wrong
    partners. All ranks create it together.
    """

    def __init__(self) -> None:
        distributed.open_background()
        self._worker = Worker("background")
        self._running: Future[T] | None = None

    def start(self, action: Callable[[], T]) -> None:
        """Start ``action``; call ``wait`` first, so that there is never more than one."""
        assert self._running is None
        self._running = self._worker.submit(partial(_run, action))

    def wait(self) -> T | None:
        """The result of the action that was started, None if there is none; raises what it raised."""
        running, self._running = self._running, None
        return None if running is None else running.result()

    def close(self) -> None:
        """End the thread, once the action that is running has ended."""
        self._worker.close()


def _run(action: Callable[[], T]) -> T:
    with distributed.in_background():
        return action()
