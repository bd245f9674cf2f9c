"""Evaluation and prediction batches of one rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset

from ..schema.data import Data
from .batches import BatchLayout
from .device import to_device
from .fetch import Collate, Fetch
from .workers import Batches, Keys, make_loader


class EvalData:
    """The batches of one rank in the dataset's order, each with the number of its samples that this rank counts.

    That number is 0 for a batch that only lets the rank take part in the collectives, and always 0 on a rank that
    reads the batches of another one (``primary=False``), as the ranks of a tensor-parallel group do.
    """

    def __init__(
        self,
        dataset: Any,
        layout: BatchLayout,
        node: Data,
        *,
        collate: Collate | None,
        seed: int,
        device: torch.device,
        primary: bool = True,
    ) -> None:
        self.dataset, self.layout, self.node, self.device, self.primary = dataset, layout, node, device, primary
        self.fetch = Fetch(dataset, collate, seed)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        for (chunk, divisor), batch in self._from_stream() if self._is_stream else self._from_map():
            yield to_device(batch, self.device), 0 if math.isinf(divisor) or not self.primary else len(chunk)

    @property
    def _is_stream(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    def _from_stream(self) -> Iterator[tuple[tuple[Sequence[Any], float], Any]]:
        stream, size = iter(self.dataset), self.layout.update_size
        while update := list(islice(stream, size)):
            for chunk, divisor in self.layout.micro_batches(update):
                yield (chunk, divisor), self.fetch.collate(list(chunk))

    def _from_map(self) -> Iterator[tuple[tuple[Sequence[Any], float], Any]]:
        parts = self.layout.micro_batches(range(len(self.dataset)))
        if self.node.dataloader_num_workers:
            keys = Keys([(0, list(chunk)) for chunk, _ in parts])
            batches: Iterator[Any] = iter(make_loader(Batches(self.fetch), self.node, self.device, keys=keys))
        else:
            batches = (self.fetch(0, list(chunk)) for chunk, _ in parts)
        yield from zip(parts, batches, strict=True)
