"""What a run does with its weights besides training them: evaluate, predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoint import store
from ..data.eval_data import EvalData
from ..errors import CheckpointError
from ..precision import full_eval
from ..schema import Config
from ..task.task import Task
from .evaluate import ComputeMetrics, evaluate
from .predict import predict


class Inference:
    """A model, a task, and the data sets that are evaluated and predicted."""

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        task: Task,
        *,
        eval_data: Mapping[str, EvalData],
        predict_data: EvalData | None,
        compute_metrics: ComputeMetrics | None,
    ) -> None:
        """``eval_data`` by the sets' names, ``""`` for a single one."""
        self.node, self.precision, self.model, self.task = config.evaluation, config.precision, model, task
        self.eval_data = {f"eval_{name}" if name else "eval": data for name, data in eval_data.items()}
        self.predict_data, self.compute_metrics = predict_data, compute_metrics

    def evaluate(self) -> dict[str, Any]:
        """One evaluation of the current weights, on every set."""
        if not self.eval_data:
            raise ValueError("evaluation needs data.eval_dataset")
        metrics: dict[str, Any] = {}
        with full_eval(self.model, self.precision):
            for prefix, data in self.eval_data.items():
                metrics |= evaluate(
                    self.model, self.task, data, self.node, compute_metrics=self.compute_metrics, prefix=prefix
                )
        return metrics

    def predict(self, directory: Path) -> dict[str, Any]:
        """Predictions of the current weights, written to ``directory``; their metrics."""
        assert self.predict_data is not None
        with full_eval(self.model, self.precision):
            return predict(
                self.model, self.task, self.predict_data, self.node, directory, compute_metrics=self.compute_metrics
            )


def weights_to_use(wish: str, checkpoints: Path) -> tuple[Path, list[str]]:
    """The verified checkpoint that a run without training starts from, and warnings: the one with this path; of a run's
    directory, or for `auto` of this one, the newest.
    """
    path = Path(wish).expanduser()
    if wish != "auto" and path.name.startswith("checkpoint-"):
        store.verify(path)
        return path, []
    root = checkpoints if wish == "auto" else path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, warnings = store.newest(root)
    if found is None:
        raise CheckpointError(f"checkpoint.resume_from_checkpoint={wish}: no checkpoint in {root}")
    return found, warnings
