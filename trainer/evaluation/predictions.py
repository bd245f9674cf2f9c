"""What a pass over data keeps of its batches, put together from all ranks in the data's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import distributed

PADDING = -100
"""What ragged arrays are filled up with, as in Hugging Face's evaluation."""
IGNORED_OUTPUTS = ("loss", "past_key_values")
"""Fields of a model's output that are no predictions."""
_GATHERED_AT_ONCE = 16
"""Batches in one message between ranks: bounds what it takes beyond the predictions themselves."""


@dataclass(slots=True)
class EvalPrediction:
    """What evaluation.compute_metrics gets, with Hugging Face's names and its way to be unpacked: arrays (or tuples of
    them, for several outputs or labels; with eval_do_concat_batches=false lists of these)."""

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
"""What is kept of one batch on one rank: EvalPrediction's fields."""


@dataclass(slots=True)
class Collector:
    """Keeps batches on their device until `flush` moves them to rank 0's memory. Collective but for `add`."""

    objects: bool = False
    """evaluation.eval_use_gather_object."""
    held: list[Part | None] = field(default_factory=list)
    """On the device, one entry per batch; None where this rank had no samples of its own."""
    batches: list[Part] = field(default_factory=list)
    """On rank 0, one entry per batch of all ranks, as arrays."""

    def add(self, part: Part | None) -> None:
        """Keep one batch. Every rank adds in every round."""
        self.held.append(None if part is None else {name: self._checked(value) for name, value in part.items()})

    def flush(self) -> None:
        """Move what is held to rank 0."""
        for start in range(0, len(self.held), _GATHERED_AT_ONCE):
            parts = [part and _each(_to_array, part) for part in self.held[start : start + _GATHERED_AT_ONCE]]
            if (ranks := distributed.gather(parts)) is not None:
                self.batches += [_join(present(row)) for row in zip(*ranks, strict=True)]
        self.held.clear()

    def take(self) -> Part | None:
        """The one batch that is held, of all ranks, as tensors on their device: on rank 0, None elsewhere."""
        if distributed.world_size() == 1:
            part, self.held = self.held[0], []
            return part
        devices = [x.device for x in _leaves(self.held[0]) if isinstance(x, Tensor)]
        self.flush()
        device = devices[0] if devices else torch.device("cpu")
        if not self.batches:
            return None
        whole: Part = _each(partial(_to_tensor, device), self.batches.pop())
        return whole

    def result(self, *, concatenate: bool = True) -> Part:
        """Everything, on rank 0: whole arrays, or lists with an entry per batch."""
        self.flush()
        if concatenate or not self.batches:
            whole: Part = _join(self.batches)
            return whole
        names = self.batches[0]
        return {name: None if names[name] is None else [batch[name] for batch in self.batches] for name in names}

    def _checked(self, value: Any) -> Any:
        """Tensors, detached, in tuples or dicts; anything else only as an object."""
        value = _plain(value, objects=self.objects)
        if not self.objects:
            for leaf in _leaves(value):
                if not isinstance(leaf, Tensor):
                    raise TypeError(
                        f"predictions that hold a {type(leaf).__name__} are no tensors; "
                        "fix: evaluation.eval_use_gather_object=true"
                    )
        return value


def pad_and_concatenate(arrays: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Along the first dimension; the others are filled up to the largest with -100."""
    shape = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    if all(array.shape[1:] == shape for array in arrays):
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    result = np.full((sum(len(a) for a in arrays), *shape), PADDING, dtype=np.result_type(*arrays))
    row = 0
    for array in arrays:
        result[(slice(row, row + len(array)), *map(slice, array.shape[1:]))] = array
        row += len(array)
    return result


def present(parts: Any) -> list[Any]:
    """Those that are there."""
    return [part for part in parts if part is not None]


def _plain(value: Any, *, objects: bool) -> Any:
    """A model's output as Hugging Face keeps it: of a mapping the values in a tuple, a single one bare."""
    if isinstance(value, Tensor):
        return value.detach().reshape(1) if value.ndim == 0 else value.detach()
    if isinstance(value, Mapping):
        fields = {k: v for k, v in value.items() if k not in IGNORED_OUTPUTS and v is not None}
        if objects:
            return fields
        return _plain(tuple(fields.values()) if len(fields) > 1 else next(iter(fields.values()), None), objects=False)
    if isinstance(value, tuple) or (isinstance(value, list) and not objects):
        return tuple(_plain(v, objects=objects) for v in value)
    return value


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to the leaves."""
    if isinstance(value, Mapping):
        return {key: _each(function, v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [_each(function, v) for v in value]
        return parts if isinstance(value, list) else tuple(parts)
    return None if value is None else function(value)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for v in value:
            yield from _leaves(v)
    elif value is not None:
        yield value


def _to_array(leaf: Any) -> Any:
    """numpy has no bfloat16."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    return (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy()


def _to_tensor(device: torch.device, leaf: Any) -> Any:
    return torch.from_numpy(leaf).to(device) if isinstance(leaf, np.ndarray) else leaf


def _join(parts: list[Any]) -> Any:
    """Parts of one shape, one after the other."""
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
