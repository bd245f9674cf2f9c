"""ClearML."""

from __future__ import annotations

import os
from typing import Any

from ..schema.trackers import ClearML as ClearMLNode
from ..schema.trackers import ClearMLMode
from ..state import RunInfo
from .names import SUMMARY, numbers
from .reporter import Reporter


class ClearML(Reporter):
    """One ClearML task per run, tagged with the manifest's run_id; a resumed run continues it.

    A metric's title is train, eval or test, its series the rest. No output, argument or framework is hooked.
    """

    def __init__(self, node: ClearMLNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        from clearml import Task
        from clearml.backend_api.session.defs import MissingConfigError

        node = self._node
        offline = os.environ.get("CLEARML_OFFLINE_MODE", "0").lower() in ("1", "true")
        if node.mode is not None:
            offline = node.mode == ClearMLMode.offline
        Task.set_offline(offline)
        project = os.environ.get("CLEARML_PROJECT") or node.project
        try:
            before = (
                Task.query_tasks(project_name=project, tags=[run.run_id]) if run.resumed_step and not offline else []
            )
            self._task = Task.init(
                project_name=project,
                task_name=os.environ.get("CLEARML_TASK") or node.name or run.run_name,
                tags=[run.run_id, *node.tags],
                reuse_last_task_id=False,
                # 0 below: our steps already continue from where the run was
                continue_last_task=before[0] if before else False,
                auto_connect_arg_parser=False,
                auto_connect_frameworks=False,
                auto_connect_streams=False,
            )
        except (MissingConfigError, ValueError) as error:
            if offline or "credential" not in f"{type(error).__name__} {error}".lower().replace("config", "credential"):
                raise
            raise PermissionError(
                "no ClearML credentials: set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, run `clearml-init`, or "
                "keep the run on this machine with logging.reporters.clearml.mode=offline"
            ) from error
        if before:
            self._task.set_initial_iteration(0)
        self._task.connect(run.config, name="trainer")

    def log(self, record: dict[str, Any]) -> None:
        logger = self._task.get_logger()
        for key, value in numbers(record).items():
            if key in (*SUMMARY, "epoch"):
                logger.report_single_value(key, value)
            else:
                prefix, _, rest = key.partition("_")
                title, series = (prefix, rest) if prefix in ("eval", "test") else ("train", key)
                logger.report_scalar(title, series, value=value, iteration=record["step"])

    def finish(self, status: str) -> None:
        if status == "failed":
            self._task.mark_failed(status_reason=status)
        self._task.close()
