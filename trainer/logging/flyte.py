"""Flyte."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..schema.trackers import Flyte as FlyteNode
from ..state import RunInfo
from .reporter import Reporter

logger = logging.getLogger(__name__)


class Flyte(Reporter):
    """Inside a Flyte task: saves checkpoints for its restarts, and the log history as a deck for its console."""

    def __init__(self, node: FlyteNode) -> None:
        self._node = node
        self._history: list[dict[str, Any]] = []
        self._synced = ""

    def start(self, run: RunInfo) -> None:
        from flytekit import current_context

        self._checkpoints = run.directory / "checkpoints"
        if self._node.sync_checkpoints:
            try:
                self._store = current_context().checkpoint
            except NotImplementedError as error:
                raise RuntimeError(
                    "this run is not inside a Flyte task with a checkpoint, which sets FLYTE_INTERNAL_EXECUTION_ID and "
                    "a checkpoint path; fix: logging.reporters.flyte.sync_checkpoints=false"
                ) from error
        if self._node.save_log_history and not find_spec("flytekitplugins.deck"):
            logger.warning("the deck `Log History` needs a package: pip install flytekitplugins-deck-standard")
            self._node.save_log_history = False

    def log(self, record: dict[str, Any]) -> None:
        self._history.append(record)
        self._sync()

    def finish(self, status: str) -> None:
        self._sync()
        if self._node.save_log_history:
            import pandas as pd
            from flytekit import Deck
            from flytekitplugins.deck.renderer import TableRenderer

            Deck("Log History", TableRenderer().to_html(pd.DataFrame(self._history)))

    def _sync(self) -> None:
        if not self._node.sync_checkpoints:
            return
        newest = max(self._checkpoints.glob("checkpoint-*"), key=_step, default=None)
        if newest is not None and newest.name != self._synced:
            self._store.save(str(newest))
            self._synced = newest.name


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
