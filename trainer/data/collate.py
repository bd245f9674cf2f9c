"""Items to a batch: the default collation, which pads sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from ..build.build import load
from ..schema.data import Data
from ..schema.task import IGNORE_INDEX, TARGET_KEYS


def make_collate(node: Data, task: Any, model: nn.Module) -> Callable[[list[Any]], Any]:
    """What data.collate_fn names, or the default collation for the keys that ``task`` and ``model`` use."""
    if node.collate_fn:
        return load(node.collate_fn)  # type: ignore[no-any-return]
    # a user's task need not derive from trainer.Task
    columns = getattr(task, "columns", None) if node.remove_unused_columns else None
    return Collate(columns and columns(model), getattr(task, "target_names", TARGET_KEYS))


class Collate:
    """A dict's lists of numbers become tensors (B, T) and its floats fp32, as in Hugging Face's collators; sequences of
    different lengths are padded on the right. Other items go through torch's default_collate.
    """

    def __init__(self, columns: frozenset[str] | None, targets: Sequence[str]) -> None:
        """``columns``: the keys of dict items that are used (None: all); ``targets``: those that are padded with
        IGNORE_INDEX, where all others are padded with 0."""
        self.columns, self.targets = columns, targets

    def __call__(self, items: list[Any]) -> Any:
        first = items[0]
        if isinstance(first, Mapping):
            names = [name for name in first if self.columns is None or name in self.columns]
            if not names:
                raise ValueError(
                    f"data.remove_unused_columns=true leaves nothing of an item: it has {', '.join(map(str, first))}, "
                    f"the model takes {', '.join(sorted(self.columns or ()))}"
                )
            batch = {name: column([item[name] for item in items], self._padding(name)) for name in names}
            if (mask := self._mask(items, batch)) is not None:
                batch["attention_mask"] = mask
            return batch
        if isinstance(first, tuple | list) and len(first) == 2 and any(ragged([i[k] for i in items]) for k in (0, 1)):
            return [column([item[0] for item in items], 0), column([item[1] for item in items], IGNORE_INDEX)]
        return default_collate(items)

    def _padding(self, name: str) -> int:
        return IGNORE_INDEX if name in self.targets else 0

    def _mask(self, items: list[Any], batch: dict[str, Any]) -> Tensor | None:
        """The attention mask (B, T) for a model that takes one, if input_ids were padded and the items have none."""
        if self.columns is None or "attention_mask" not in self.columns or "attention_mask" in batch:
            return None
        lengths = [len(item["input_ids"]) for item in items] if "input_ids" in batch else []
        if len(set(lengths)) < 2:
            return None
        return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def column(values: list[Any], padding: int) -> Any:
    """One key's values as one tensor; values without numbers go through default_collate."""
    first = values[0]
    if isinstance(first, list | tuple) and _numbers(first):
        values = [torch.tensor(value) for value in values]
    elif isinstance(first, float):
        return torch.tensor(values)
    if ragged(values):
        tensors = [torch.as_tensor(value) for value in values]
        return pad_sequence(tensors, batch_first=True, padding_value=0 if tensors[0].is_floating_point() else padding)
    return default_collate(values)


def ragged(values: list[Any]) -> bool:
    """Whether these are sequences (tensors, arrays) of different lengths."""
    if not isinstance(values[0], Tensor | np.ndarray):
        return False
    shape = values[0].shape
    return len(shape) > 0 and any(value.shape != shape for value in values)


def _numbers(value: Any) -> bool:
    """Whether a list holds numbers or lists of them; an empty one counts as numbers."""
    return all(_numbers(v) if isinstance(v, list | tuple) else isinstance(v, int | float) for v in value[:1])
