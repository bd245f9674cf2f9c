"""What an evaluation collects from its batches, joined from all ranks in the dataset's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import distributed
from ..schema.task import IGNORE_INDEX
from ..tree import map_leaves, tensors

IGNORED_OUTPUTS = ("loss", "past_key_values")
"""Fields of a model's output that are not predictions."""
_GATHERED_AT_ONCE = 16
"""Batches per message between ranks; bounds the memory that gathering needs beyond the predictions themselves."""


@dataclass(slots=True)
class EvalPrediction:
    """The argument of evaluation.compute_metrics, with Hugging Face's names and unpacking.

    The fields are arrays, or tuples of arrays for several outputs or labels; with eval_do_concat_batches=false they are
    lists of these, one entry per batch.
    """

    predictions: Any
    label_ids: Any
    inputs: Any = None
    losses: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._elements())

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self._elements()):
            raise IndexError("tuple index out of range")
        return self._elements()[index]

    def _elements(self) -> tuple[Any, ...]:
        return (self.predictions, self.label_ids, *(x for x in (self.inputs, self.losses) if x is not None))


Part = dict[str, Any]
"""EvalPrediction's fields, for one batch on one rank."""


@dataclass(slots=True)
class Collector:
    """Holds batches on their device until `flush` moves them to rank 0's memory. Collective except for `add`."""

    objects: bool = False
    """evaluation.eval_use_gather_object."""
    held: list[Part | None] = field(default_factory=list)
    """On the device, one entry per batch; None where this rank had no samples of its own."""
    batches: list[Part] = field(default_factory=list)
    """On rank 0, one entry per batch of all ranks, as arrays."""

    def add(self, part: Part | None) -> None:
        """Keep one batch, or None; every rank adds one in every round."""
        self.held.append(
            None if part is None else {name: _plain(value, objects=self.objects) for name, value in part.items()}
        )

    def flush(self) -> None:
        """Move the held batches to rank 0."""
        for start in range(0, len(self.held), _GATHERED_AT_ONCE):
            parts = [part and map_leaves(_to_array, part) for part in self.held[start : start + _GATHERED_AT_ONCE]]
            if (ranks := distributed.gather(parts)) is not None:
                self.batches += [_join([part for part in row if part is not None]) for row in zip(*ranks, strict=True)]
        self.held.clear()

    def take(self) -> Part | None:
        """The held batch, joined from all ranks, as tensors on their device; None on ranks other than 0."""
        if distributed.world_size() == 1:
            part, self.held = self.held[0], []
            return part
        devices = [tensor.device for tensor in tensors(self.held[0])]
        self.flush()
        device = devices[0] if devices else torch.device("cpu")
        if not self.batches:
            return None
        whole: Part = map_leaves(partial(_to_tensor, device), self.batches.pop())
        return whole

    def result(self, *, concatenate: bool = True) -> Part:
        """All batches, on rank 0: whole arrays, or lists with one entry per batch."""
        self.flush()
        if concatenate or not self.batches:
            whole: Part = _join(self.batches)
            return whole
        names = self.batches[0]
        return {name: None if names[name] is None else [batch[name] for batch in self.batches] for name in names}


def pad_and_concatenate(arrays: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Concatenate along the first dimension; pad the others to the largest with IGNORE_INDEX, as Hugging Face does."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    if all(array.shape[1:] == shape for array in arrays):
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    result = np.full((sum(len(a) for a in arrays), *shape), IGNORE_INDEX, dtype=np.result_type(*arrays))
    row = 0
    for array in arrays:
        result[(slice(row, row + len(array)), *map(slice, array.shape[1:]))] = array
        row += len(array)
    return result


def _plain(value: Any, *, objects: bool) -> Any:
    """A model's output in Hugging Face's form: a mapping's values as a tuple, a single one bare. Tensors are detached;
    other values are allowed only with ``objects``."""
    if isinstance(value, Tensor):
        return value.detach().reshape(1) if value.ndim == 0 else value.detach()
    if isinstance(value, Mapping):
        fields = {k: v for k, v in value.items() if k not in IGNORED_OUTPUTS and v is not None}
        if objects:
            return fields
        return _plain(tuple(fields.values()) if len(fields) > 1 else next(iter(fields.values()), None), objects=False)
    if isinstance(value, tuple) or (isinstance(value, list) and not objects):
        return tuple(_plain(v, objects=objects) for v in value)
    if value is None or objects:
        return value
    raise TypeError(
        f"predictions hold a {type(value).__name__}, which is not a tensor; fix: evaluation.eval_use_gather_object=true"
    )


def _to_array(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    return (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy()  # numpy has no bfloat16


def _to_tensor(device: torch.device, leaf: Any) -> Any:
    return torch.from_numpy(leaf).to(device) if isinstance(leaf, np.ndarray) else leaf


def _join(parts: list[Any]) -> Any:
    """Concatenate parts of the same structure."""
    if not parts or parts[0] is None:
        return {} if not parts else None
    first = parts[0]
    if isinstance(first, np.ndarray):
        return pad_and_concatenate(parts)
    if isinstance(first, Mapping):
        return {key: _join([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(_join(list(column)) for column in zip(*parts, strict=True))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    return parts
