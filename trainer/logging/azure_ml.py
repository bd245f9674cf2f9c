"""Azure Machine Learning."""

from __future__ import annotations

from typing import Any

from ..schema.trackers import AzureML as AzureMLNode
from ..state import RunInfo
from .names import numbers
from .reporter import Reporter


class AzureML(Reporter):
    """Logs to the Azure ML run in which the job was started."""

    def __init__(self, node: AzureMLNode) -> None:
        pass

    def start(self, run: RunInfo) -> None:
        from azureml.core.run import Run
        from azureml.exceptions import RunEnvironmentException

        try:
            self._run = Run.get_context(allow_offline=False)
        except RunEnvironmentException as error:
            raise PermissionError(
                "this run is not inside an Azure ML job (AZUREML_RUN_ID is not set): submit it as one, or leave "
                "azure_ml out of `logging=`"
            ) from error

    def log(self, record: dict[str, Any]) -> None:
        for key, value in numbers(record).items():
            self._run.log(key, value, description=key, step=record["step"])

    def finish(self, status: str) -> None:
        self._run.flush()
