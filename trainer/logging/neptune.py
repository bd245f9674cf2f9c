"""Neptune."""

from __future__ import annotations

import os
from typing import Any

from ..schema.trackers import Neptune as NeptuneNode
from ..state import RunInfo
from .names import tracker_names
from .reporter import Reporter


class Neptune(Reporter):
    """One Neptune run per run, with the manifest's run_id as its custom id, so a resumed run continues it.

    Everything is logged below `base_namespace`, as in Hugging Face's callback. No output or source code is captured.
    """

    def __init__(self, node: NeptuneNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        import neptune
        from neptune.utils import stringify_unsupported

        node = self._node
        mode = str(node.mode) if node.mode else os.environ.get("NEPTUNE_MODE", "async")
        if mode not in ("offline", "debug"):
            if not os.environ.get("NEPTUNE_API_TOKEN"):
                raise PermissionError(
                    "no Neptune token: set NEPTUNE_API_TOKEN, or keep the run on this machine with "
                    "logging.reporters.neptune.mode=offline"
                )
            if not (node.project or os.environ.get("NEPTUNE_PROJECT")):
                raise ValueError(
                    "no Neptune project: set logging.reporters.neptune.project=workspace/name or NEPTUNE_PROJECT"
                )
        self._run = neptune.init_run(
            project=node.project,
            mode=mode,
            custom_run_id=run.run_id,
            name=node.name or run.run_name,
            tags=node.tags,
            source_files=[],
            git_ref=False,
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
        )
        self._names = self._run[node.base_namespace]
        self._names["trainer_parameters"] = stringify_unsupported(run.config)

    def log(self, record: dict[str, Any]) -> None:
        for name, value in tracker_names(record).items():
            if name == "train/epoch":
                self._names[name] = value
            else:
                self._names[name].append(value, step=record["step"])

    def finish(self, status: str) -> None:
        self._names["status"] = status
        self._run.stop()
