"""Aim."""

from __future__ import annotations

import os
from typing import Any

from ..schema.trackers import Aim as AimNode
from ..state import RunInfo
from .reporter import Reporter


class Aim(Reporter):
    """One Aim run per run: its hash stands in `aim_run` in the run's directory, so a resumed run goes on in it.

    No output is captured.
    """

    def __init__(self, node: AimNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        from aim import Repo, Run

        node = self._node
        where = node.repo or os.getcwd()
        if "://" not in where and not Repo.exists(where):
            Repo.from_path(where, init=True)
        note = run.directory / "aim_run"
        known = note.read_text() if run.resumed_step and note.exists() else None
        self._run = Run(
            known,
            repo=where,
            experiment=node.experiment,
            system_tracking_interval=node.system_tracking_interval,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        note.write_text(self._run.hash)
        self._run.name = node.name or run.run_name
        self._run["run_id"] = run.run_id
        self._run.set("config", run.config, strict=False)

    def log(self, record: dict[str, Any]) -> None:
        for key, value in record.items():
            if key in ("step", "time") or not isinstance(value, int | float):
                continue
            prefix, _, rest = key.partition("_")
            name, context = (rest, {"subset": prefix}) if prefix in ("train", "eval", "test") and rest else (key, {})
            self._run.track(value, name=name, context=context, step=record["step"], epoch=record["epoch"])

    def finish(self, status: str) -> None:
        self._run["status"] = status
        self._run.close()
