"""CodeCarbon."""

from __future__ import annotations

from typing import Any

from ..schema.trackers import CodeCarbon as CodeCarbonNode
from ..state import RunInfo
from .reporter import Reporter


class CodeCarbon(Reporter):
    """Measures from start to finish and writes a row of emissions.csv. As in Hugging Face's callback, it logs no
    metrics."""

    def __init__(self, node: CodeCarbonNode) -> None:
        import torch

        if torch.version.hip:
            raise RuntimeError("codecarbon does not measure AMD GPUs (https://github.com/mlco2/codecarbon/pull/490)")
        self._node = node

    def start(self, run: RunInfo) -> None:
        from codecarbon import EmissionsTracker, OfflineEmissionsTracker

        node = self._node
        options: dict[str, Any] = {
            "project_name": node.project,
            "experiment_id": run.run_id,
            "output_dir": node.output_dir or str(run.directory),
            "measure_power_secs": node.measure_power_secs,
            "log_level": "error",
            "allow_multiple_runs": True,
        }
        if node.country_iso_code:
            self._tracker = OfflineEmissionsTracker(country_iso_code=node.country_iso_code, **options)
        else:
            self._tracker = EmissionsTracker(save_to_api=False, **options)
        self._tracker.start()

    def log(self, record: dict[str, Any]) -> None:
        pass

    def finish(self, status: str) -> None:
        self._tracker.stop()
