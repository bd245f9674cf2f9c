"""MLflow."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ..schema.trackers import MLflow as MLflowNode
from ..state import RunInfo
from .names import flatten, numbers
from .reporter import Reporter

TAG = "trainer.run_id"
"""Tag with the manifest's run_id; a resumed run continues the MLflow run that has it."""
_STATUS = {"completed": "FINISHED", "failed": "FAILED"}


class MLflow(Reporter):
    """One MLflow run per run, through MLflow's client, which has no global state: no other run is touched."""

    def __init__(self, node: MLflowNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        from mlflow import MlflowClient
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        node, self._directory = self._node, run.directory
        self._client = MlflowClient(node.tracking_uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or node.experiment
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        existing = os.environ.get("MLFLOW_RUN_ID") or self._existing(experiment_id, run)
        if existing:
            self._client.update_run(existing, status="RUNNING")
        self._id = existing or self._create(experiment_id, run)
        if existing:
            return
        params = {_clean(key): str(value) for key, value in flatten(run.config).items()}
        fitting = [(key, value) for key, value in params.items() if len(value) <= MAX_PARAM_VAL_LENGTH]
        for first in range(0, len(fitting), MAX_PARAMS_TAGS_PER_BATCH):
            self._log_batch(params=fitting[first : first + MAX_PARAMS_TAGS_PER_BATCH])

    def log(self, record: dict[str, Any]) -> None:
        step, time = record["step"], record["time"]
        self._log_batch(metrics=[(_clean(key), value, time, step) for key, value in numbers(record).items()])

    def finish(self, status: str) -> None:
        if self._node.log_artifacts:
            for name in ("config.yaml", "model"):
                if (path := self._directory / name).exists():
                    self._client.log_artifact(self._id, path)
        self._client.set_terminated(self._id, _STATUS.get(status, "KILLED"))

    def _existing(self, experiment: str, run: RunInfo) -> str | None:
        if not run.resumed_step:
            return None
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.run_id}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, experiment: str, run: RunInfo) -> str:
        from mlflow import active_run
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

        node = self._node
        tags = {TAG: run.run_id} | json.loads(os.environ.get("MLFLOW_TAGS") or "{}") | node.tags
        parent = (
            active_run() if node.nested or os.environ.get("MLFLOW_NESTED_RUN", "").upper() in ("TRUE", "1") else None
        )
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent.info.run_id
        return str(self._client.create_run(experiment, run_name=node.name or run.run_name, tags=tags).info.run_id)

    def _log_batch(
        self,
        params: list[tuple[str, str]] | None = None,
        metrics: list[tuple[str, float, float, int]] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param

        self._client.log_batch(
            self._id,
            metrics=[Metric(key, value, round(time * 1000), step) for key, value, time, step in metrics or ()],
            params=[Param(*pair) for pair in params or ()],
        )


def _clean(name: str) -> str:
    """The name with `_` for every character that MLflow does not allow, as in Hugging Face's callback."""
    return re.sub(r"[^0-9A-Za-z_\-. :/]", "_", name)
