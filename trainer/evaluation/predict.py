"""Predictions of a data set, in its order, in one file of the run's directory."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from torch import nn

from .. import distributed
from ..checkpoint import files
from ..data.eval_data import EvalData
from ..schema.evaluation import Evaluation
from ..task.task import Task
from .evaluate import ComputeMetrics, run_pass
from .predictions import Part

logger = logging.getLogger(__name__)

NAMES = "predictions.safetensors", "predictions.jsonl"


def predict(
    model: nn.Module,
    task: Task,
    data: EvalData,
    node: Evaluation,
    directory: Path,
    *,
    compute_metrics: ComputeMetrics | None = None,
) -> dict[str, Any]:
    """Write the predictions; return ``test_loss`` and the other metrics, as far as there are targets. Collective."""
    metrics, kept = run_pass(model, task, data, node, compute_metrics=compute_metrics, prefix="test", predict=True)
    if kept is not None:
        whole = kept.result()
        if distributed.is_main():
            logger.info("predictions: %s", write(directory, whole, objects=node.eval_use_gather_object))
    return metrics


def write(directory: Path, whole: Part, *, objects: bool) -> Path:
    """`predictions.safetensors`: `predictions` and `label_ids`, or `predictions.0`, `predictions.1` ... of several
    outputs, a row per sample; or with ``objects`` `predictions.jsonl`, a line per sample: `prediction` and `label`.
    """
    columns = {name: whole[name] for name in ("predictions", "label_ids") if whole[name] is not None}
    path = directory / NAMES[objects]
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.unlink(missing_ok=True)
    if objects:
        files.write(temporary, (json.dumps(line, default=_json).encode() + b"\n" for line in _lines(columns)))
    else:
        arrays = {name: np.ascontiguousarray(array) for name, array in _flatten(columns.items())}
        files.write(temporary, [save(arrays)])
    os.replace(temporary, path)
    files.sync_directory(directory)
    return path


def _flatten(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    for name, value in items:
        if isinstance(value, tuple):
            yield from _flatten((f"{name}.{i}", part) for i, part in enumerate(value))
        else:
            yield name, value


def _lines(columns: Part) -> Iterator[dict[str, Any]]:
    for i in range(_length(columns["predictions"])):
        yield {name.removesuffix("s").removesuffix("_id"): _row(value, i) for name, value in columns.items()}


def _length(value: Any) -> int:
    """How many samples a column holds."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return _length(value[0]) if isinstance(value, tuple) else len(value)


def _row(value: Any, i: int) -> Any:
    """One sample's part of a column."""
    if isinstance(value, Mapping):
        return {key: _row(part, i) for key, part in value.items()}
    return [_row(part, i) for part in value] if isinstance(value, tuple) else value[i]


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a prediction holds a {type(value).__name__}, which JSON cannot")
