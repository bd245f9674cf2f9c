"""Samples to batches, with the random state isolated."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import TensorDataset

from ..rng import put_back, snapshot, touched
from ..schema.task import TARGET_KEYS
from .collate import Collate as DefaultCollate

Collate = Callable[[list[Any]], Any]


class Fetch:
    """Fetches the samples of a micro-batch and collates them.

    Random augmentation is a function of (seed, epoch, index): it is the same at any world size, with any number of
    workers, and after a resume, and it leaves the training's own random state alone. The first fetch that touches a
    random state is repeated with each sample seeded, and so are all fetches from then on (about 20 us per sample). A
    dataset with ``draws_random = False`` is trusted, which saves the check (about 25 us per batch). What
    ``__getitems__`` draws depends on the micro-batch's first index, because it fetches all samples at once.
    """

    def __init__(self, dataset: Any, collate: Collate | None, seed: int) -> None:
        self.dataset = dataset
        self.collate = collate or DefaultCollate(None, TARGET_KEYS)
        self.seed = seed
        self.batched = True
        if type(dataset) is TensorDataset and (
            collate is None or type(collate) is DefaultCollate
        ):  # one indexing instead of one per sample: 15 us, not 75
            self.get: Callable[[Sequence[int]], Any] = self._get_tensors
        elif hasattr(dataset, "__getitems__"):
            self.get = self._get_batch
        else:
            self.get = self._get_each
            self.batched = False
        self.trusted = type(dataset) is TensorDataset or getattr(dataset, "draws_random", None) is False
        self.random = False

    def __call__(self, epoch: int, indices: Sequence[int]) -> Any:
        if self.trusted:
            return self.get(indices)
        before = snapshot()
        try:
            if not self.random:
                batch = self.get(indices)
                if not touched(before):
                    return batch
                self.random = True
            if not self.batched:
                items = []
                for index in indices:
                    seed_all((self.seed, epoch, index))
                    items.append(self.dataset[index])
                return self.collate(items)
            seed_all((self.seed, epoch, indices[0]))
            return self.get(indices)
        finally:
            if self.random:
                put_back(before)

    def _get_tensors(self, indices: Sequence[int]) -> Any:
        index = torch.as_tensor(indices)
        return tuple(t.index_select(0, index) for t in self.dataset.tensors)

    def _get_batch(self, indices: Sequence[int]) -> Any:
        items = self.dataset.__getitems__(indices)
        return self.collate(items) if isinstance(items, list) else items

    def _get_each(self, indices: Sequence[int]) -> Any:
        return self.collate([self.dataset[i] for i in indices])


def seed_all(key: tuple[int, int, int]) -> None:
    """Seed torch (CPU), Python and numpy from a key of integers."""
    seed = zlib.crc32(repr(key).encode())  # the same in every process and Python version
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also queue a reseeding of the GPUs
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
