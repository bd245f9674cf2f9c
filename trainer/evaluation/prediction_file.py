"""Predictions for a dataset, in its order, as one file in the run's directory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ..checkpoint import files
from .predictions import Part

NAMES = "predictions.safetensors", "predictions.jsonl"


def write(directory: Path, columns: Part, *, objects: bool) -> Path:
    """Write ``columns``, `predictions` and `label_ids`, as far as they are there; return the file's path.

    `predictions.safetensors` has a row per sample, and several outputs as `predictions.0`, `predictions.1` ... With
    ``objects`` it is `predictions.jsonl`, a line per sample: `prediction` and `label`.
    """
    columns = {name: column for name, column in columns.items() if column is not None}
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
    raise TypeError(f"a prediction holds a {type(value).__name__}, which JSON cannot represent")
