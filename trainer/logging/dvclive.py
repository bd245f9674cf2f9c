"""DVCLive."""

from __future__ import annotations

from typing import Any

from ..schema.trackers import DVCLive as DVCLiveNode
from ..state import RunInfo
from .names import flatten, numbers
from .reporter import Reporter


class DVCLive(Reporter):
    """A DVCLive directory of metrics, plots and parameters, under DVCLive's names for the Trainer (loss, eval/loss)."""

    def __init__(self, node: DVCLiveNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        from dvclive import Live

        node = self._node
        self._live = Live(
            dir=node.dir or str(run.directory / "dvclive"),
            resume=bool(run.resumed_step),
            save_dvc_exp=node.save_dvc_exp,
            report=node.report,
            dvcyaml=None,
        )
        if not run.resumed_step:
            self._live.log_params(flatten(run.config))

    def log(self, record: dict[str, Any]) -> None:
        from dvclive.utils import standardize_metric_name

        self._live.step = record["step"]
        for key, value in numbers(record).items():
            self._live.log_metric(standardize_metric_name(key, "dvclive.huggingface"), value)
        self._live.make_summary()

    def finish(self, status: str) -> None:
        self._live.end()
