"""torch's DataLoader for whole batches that are made in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..schema.data import Data
from .fetch import Fetch


class Keys:
    """A sampler whose keys are replaced every epoch, so that persistent workers can stay."""

    def __init__(self, keys: list[Any] | None = None) -> None:
        self.keys = keys or []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class Batches(Dataset[Any]):
    """A dataset of whole batches for the workers.

    A key is (epoch, sample indices). Where batches may arrive in any order, their place comes first in the key and is
    returned with the batch.
    """

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        *place, epoch, indices = key
        batch = self.fetch(epoch, indices)
        return (*place, batch) if place else batch


def make_loader(
    dataset: Dataset[Any], node: Data, device: torch.device, *, keys: Keys | None = None, ordered: bool = True
) -> DataLoader[Any]:
    """A DataLoader that hands ``dataset``'s items on as they are, in the workers that ``node`` asks for.

    With ``ordered=False`` data.dataloader_in_order decides whether the items keep the order of their keys.
    """
    context = node.dataloader_multiprocessing_context
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=keys,
        collate_fn=_identity,
        num_workers=node.dataloader_num_workers,
        pin_memory=node.dataloader_pin_memory and device.type == "cuda",
        persistent_workers=node.dataloader_persistent_workers,
        prefetch_factor=node.dataloader_prefetch_factor,
        in_order=ordered or node.dataloader_in_order,
        multiprocessing_context=str(context) if context else None,
        # a generator of its own: creating an iterator draws from it instead of from the training's random state
        generator=torch.Generator().manual_seed(0),
    )


def _identity(batch: Any) -> Any:
    return batch
