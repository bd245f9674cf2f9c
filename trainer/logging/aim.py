"""Aim."""

from __future__ import annotations

import os
from typing import Any

from ..schema.trackers import Aim as AimNode
from ..state import RunInfo
from .names import numbers
from .reporter import Reporter


class Aim(Reporter):
    """One Aim run per run. Its hash is kept in the run's directory (`aim_run`), so a resumed run continues it.

    No output is captured.
    """

    def __init__(self, node: AimNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        from aim import Repo, Run

        node = self._node
        repo = node.repo or os.getcwd()
        if "://" not in repo and not Repo.exists(repo):
            Repo.from_path(repo, init=True)
        hash_file = run.directory / "aim_run"
        existing = hash_file.read_text() if run.resumed_step and hash_file.exists() else None
        self._run = Run(
            existing,
            repo=repo,
            experiment=node.experiment,
            system_tracking_interval=node.system_tracking_interval,
            log_system_params=False,
            capture_terminal_logs=False,
        )
        hash_file.write_text(self._run.hash)
        self._run.name = node.name or run.run_name
        self._run["run_id"] = run.run_id
        self._run.set("config", run.config, strict=False)

    def log(self, record: dict[str, Any]) -> None:
        for key, value in numbers(record).items():
            prefix, _, rest = key.partition("_")
            name, context = (rest, {"subset": prefix}) if prefix in ("train", "eval", "test") and rest else (key, {})
            self._run.track(value, name=name, context=context, step=record["step"], epoch=record["epoch"])

    def finish(self, status: str) -> None:
        self._run["status"] = status
        self._run.close()
