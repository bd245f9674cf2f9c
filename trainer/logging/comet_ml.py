"""Comet."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from ..schema.trackers import Comet as CometNode
from ..schema.trackers import CometMode
from ..state import RunInfo
from .names import flatten, tracker_names
from .reporter import Reporter


class Comet(Reporter):
    """One Comet experiment per run. Its key derives from the manifest's run_id, so a resumed run continues it.

    No source code, git patch, command line or output is captured.
    """

    def __init__(self, node: CometNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        import comet_ml

        node = self._node
        online = os.environ.get("COMET_START_ONLINE", "1").lower() not in ("0", "false")
        if node.mode is not None:
            online = node.mode == CometMode.online
        if online and not comet_ml.config.get_config()["comet.api_key"]:
            raise PermissionError(
                "no Comet API key: set COMET_API_KEY, run `comet login`, or keep the run on this machine with "
                "logging.reporters.comet_ml.mode=offline"
            )
        directory = run.directory / "comet_ml"
        self._experiment = comet_ml.start(
            workspace=node.workspace,
            project_name=os.environ.get("COMET_PROJECT_NAME") or node.project,
            experiment_key=os.environ.get("COMET_EXPERIMENT_KEY")
            or hashlib.sha256(run.run_id.encode()).hexdigest()[:32],
            mode=os.environ.get("COMET_MODE", "get_or_create").lower() if online else "create",
            online=online,
            experiment_config=comet_ml.ExperimentConfig(
                name=node.name or run.run_name,
                tags=node.tags,
                offline_directory=str(directory),
                log_code=False,
                log_git_metadata=False,
                log_git_patch=False,
                parse_args=False,
                log_env_details=False,
                auto_output_logging=False,
                auto_param_logging=False,
                auto_metric_logging=False,
                auto_log_co2=False,
                display_summary_level=0,
            ),
        )
        self._experiment.log_parameters(flatten(run.config))

    def log(self, record: dict[str, Any]) -> None:
        self._experiment.log_metrics(tracker_names(record), step=record["step"], epoch=record["epoch"])

    def finish(self, status: str) -> None:
        self._experiment.log_other("status", status)
        self._experiment.end()
