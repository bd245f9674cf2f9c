"""SwanLab."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..schema.trackers import SwanLab as SwanLabNode
from ..state import RunInfo
from .names import SUMMARY, tracker_names
from .reporter import Reporter


class SwanLab(Reporter):
    """One SwanLab experiment per run, with the manifest's run_id as its id, so a resumed run continues it."""

    def __init__(self, node: SwanLabNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        import swanlab

        node = self._node
        mode = str(node.mode) if node.mode else os.environ.get("SWANLAB_MODE", "online")
        mode = "online" if mode == "cloud" else mode
        if mode == "online" and not swanlab.Settings().api_key:
            raise PermissionError(
                "no SwanLab API key: set SWANLAB_API_KEY, run `swanlab login`, or keep the run on this machine with "
                "logging.reporters.swanlab.mode=offline"
            )
        self._swanlab = swanlab
        with _no_handlers():
            self._init(run, mode)

    def _init(self, run: RunInfo, mode: str) -> None:
        node = self._node
        self._swanlab.init(
            project=os.environ.get("SWANLAB_PROJECT_NAME") or node.project,
            workspace=node.workspace,
            name=node.name or run.run_name,
            tags=node.tags,
            config=run.config,
            log_dir=os.environ.get("SWANLAB_LOG_DIR") or str(run.directory / "swanlab"),
            mode=mode,
            id=run.run_id,
            resume="allow",
            # the command line may hold a secret, and the terminal belongs to the console reporter
            settings=self._swanlab.Settings(probe={"runtime": False}, terminal={"proxy_type": "none"}),
        )

    def log(self, record: dict[str, Any]) -> None:
        single = {f"single_value/{key}": record[key] for key in SUMMARY if key in record}
        series = tracker_names({key: value for key, value in record.items() if key not in SUMMARY})
        self._swanlab.log({**single, **series, "train/global_step": record["step"]}, step=record["step"])

    def finish(self, status: str) -> None:
        with _no_handlers():
            self._swanlab.finish(state="success" if status == "completed" else "aborted")


@contextmanager
def _no_handlers() -> Iterator[None]:
    """Keep SwanLab off SIGINT: Ctrl-C is the run's (it saves), and a reporter's thread cannot set a handler."""
    before = signal.signal
    signal.signal = lambda signalnum, handler: signal.getsignal(signalnum)
    try:
        yield
    finally:
        signal.signal = before
