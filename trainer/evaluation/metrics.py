"""compute_metrics: where it comes from, and what becomes of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..build.build import load
from ..schema.evaluation import Evaluation

ComputeMetrics = Callable[..., dict[str, Any]]
"""From an EvalPrediction to metrics by name, as in Hugging Face's Trainer."""


def load_compute_metrics(node: Evaluation) -> ComputeMetrics | None:
    """The function that evaluation.compute_metrics names; of a class its one object, which may count across batches."""
    found = load(node.compute_metrics) if node.compute_metrics else None
    return found() if isinstance(found, type) else found


def to_python(metrics: Any) -> Any:
    """Python numbers in place of numpy's and torch's, at any depth, as JSON and trackers need them.

    Raises TypeError for anything else.
    """
    if isinstance(metrics, Mapping):
        return {str(name): to_python(value) for name, value in metrics.items()}
    if isinstance(metrics, list | tuple):
        return [to_python(value) for value in metrics]
    if isinstance(metrics, Tensor | np.ndarray | np.generic):
        return to_python(np.asarray(metrics).tolist()) if np.size(metrics) != 1 else np.asarray(metrics).item()
    if isinstance(metrics, bool | int | float | str) or metrics is None:
        return metrics
    raise TypeError(
        f"evaluation.compute_metrics must return a dict of numbers; this one holds a {type(metrics).__name__}"
    )
