"""Batches for the loop: step by step, from any step of any epoch on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..rng import put_back, snapshot
from ..schema.data import Data
from .batches import BatchPlan
from .device import to_device
from .fetch import Collate, Fetch, seed_all
from .order import MEASURED, Order

MicroBatch = tuple[Any, float]
"""A batch and the divisor of its mean loss."""


class TrainData:
    """The training data of one rank.

    ``epoch`` and ``step_in_epoch`` are the cursor: set them and ``steps()`` goes on from there.
    """

    def __init__(
        self, dataset: Any, plan: BatchPlan, node: Data, *, collate: Collate | None, seed: int, device: torch.device
    ) -> None:
        self.dataset, self.plan, self.node, self.seed, self.device = dataset, plan, node, seed, device
        self.fetch = Fetch(dataset, collate, seed)
        self.iterable = isinstance(dataset, IterableDataset)
        if self.iterable and node.dataloader_num_workers > 1:
            raise ValueError(
                f"data.dataloader_num_workers={node.dataloader_num_workers}: each worker of an iterable dataset would "
                "repeat every sample; fix: data.dataloader_num_workers=1"
            )
        self.num_samples = len(dataset) if hasattr(dataset, "__len__") else None
        if self.num_samples == 0:
            raise ValueError("data.train_dataset is empty")
        self.steps_per_epoch = (
            None
            if self.num_samples is None
            else plan.steps_per_epoch(self.num_samples, drop_last=node.dataloader_drop_last)
        )
        """Updates of an epoch; None for an iterable dataset without a length."""
        self.order = None if self.num_samples is None or self.iterable else Order(dataset, node, plan.update_size, seed)
        if self.iterable and node.train_sampling_strategy in MEASURED:
            raise ValueError(
                f"data.train_sampling_strategy={node.train_sampling_strategy}: data.train_dataset is iterable: its "
                "order is its own"
            )
        self.epoch = 0
        self.step_in_epoch = 0
        self._workers: DataLoader[Any] | None = None
        self._keys = _Keys()

    def max_steps(self, max_steps: int, num_train_epochs: float) -> int:
        """Updates of the whole run, as the Trainer counts them."""
        if max_steps > 0:
            return max_steps
        if self.steps_per_epoch is None:
            raise ValueError("data.train_dataset has no length: set train.max_steps")
        return math.ceil(num_train_epochs * self.steps_per_epoch)

    def steps(self) -> Iterator[tuple[list[MicroBatch], bool]]:
        """This rank's micro-batches, update by update, to the end of the current epoch, and whether it is the last one.

        The cursor counts an update as it is handed out: saved at that step's end, it points at the next one.
        """
        for micro_batches, last in self._from_stream() if self.iterable else self._from_map():
            if last:
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
            else:
                self.step_in_epoch += 1
            yield micro_batches, last

    @property
    def progress(self) -> float:
        """Passes over the data up to the cursor, in micro-batches as the Trainer counts them; whole epochs where the
        length is unknown."""
        if self.steps_per_epoch is None:
            return float(self.epoch)
        return self.epoch + self.step_in_epoch * self.plan.accumulation / self.plan.rounds(self._epoch_samples)

    def samples(self, steps: int) -> int:
        """How many samples the run's first so many updates take."""
        size = self.plan.update_size
        if self.steps_per_epoch is None:
            return steps * size
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self._epoch_samples + rest * size

    @property
    def _epoch_samples(self) -> int:
        assert self.num_samples is not None
        assert self.steps_per_epoch is not None
        return min(self.num_samples, self.steps_per_epoch * self.plan.update_size)

    def _from_map(self) -> Iterator[tuple[list[MicroBatch], bool]]:
        assert self.num_samples is not None
        assert self.steps_per_epoch is not None
        assert self.order is not None
        order, epoch = self.order(self.epoch), self.epoch
        cut, plan = self.order.cut, self.plan
        size, end = plan.update_size, self.steps_per_epoch
        device = self.device
        updates = range(self.step_in_epoch, end)
        if not self.node.dataloader_num_workers:
            for k in updates:
                row = order[k * size : (k + 1) * size].tolist()
                yield (
                    [(to_device(self.fetch(epoch, chunk), device), divisor) for chunk, divisor in cut(row, plan)],
                    k + 1 == end,
                )
            return
        rows = [cut(order[k * size : (k + 1) * size].tolist(), plan) for k in updates]
        self._keys.keys = [(epoch, chunk) for row in rows for chunk, _ in row]
        if not self.node.dataloader_in_order:
            yield from self._as_they_come(rows)
            return
        batches = iter(self._loader())
        for k, row in zip(updates, rows, strict=True):
            yield [(to_device(next(batches), device), divisor) for _, divisor in row], k + 1 == end

    def _as_they_come(self, rows: list[list[tuple[Sequence[int], float]]]) -> Iterator[tuple[list[MicroBatch], bool]]:
        """The updates in their order, the micro-batches of each as the workers finish them."""
        self._keys.keys = [(k, i, *self._keys.keys[at]) for at, (k, i) in enumerate(_places(rows))]
        batches = iter(self._loader())
        arrived: list[list[MicroBatch]] = [[] for _ in rows]
        for k, row in enumerate(rows):
            while len(arrived[k]) < len(row):
                update, i, batch = next(batches)
                arrived[update].append((to_device(batch, self.device), rows[update][i][1]))
            yield arrived[k], k + 1 == len(rows)
            arrived[k] = []

    def _loader(self) -> DataLoader[Any]:
        if self._workers is None or not self.node.dataloader_persistent_workers:
            self._workers = DataLoader(
                _Batches(self.fetch),
                batch_size=None,
                sampler=self._keys,
                collate_fn=_identity,
                **_worker_settings(self.node, self.device, ordered=False),
            )
        return self._workers

    def _from_stream(self) -> Iterator[tuple[list[MicroBatch], bool]]:
        """Every rank reads the whole stream and keeps its own chunks; a resume reads past what was used."""
        updates = self._updates()
        update = next(updates, None)
        while update is not None:
            following = next(updates, None)
            yield (
                [
                    (to_device(self.fetch.collate(list(chunk)), self.device), divisor)
                    for chunk, divisor in self.plan.micro_batches(update)
                ],
                following is None,
            )
            update = following

    def _updates(self) -> Iterator[list[Any]]:
        """The stream's samples, an update at a time, drawn under a random state of the stream's own."""
        size, skip = self.plan.update_size, self.step_in_epoch * self.plan.update_size
        outside = snapshot()
        seed_all((self.seed, self.epoch, 0))
        stream = iter(self._stream_source())
        for _ in islice(stream, skip):
            pass
        while True:
            update = list(islice(stream, size))
            inside = snapshot()
            put_back(outside)
            if not update or (len(update) < size and self.node.dataloader_drop_last):
                return
            yield update
            outside = snapshot()
            put_back(inside)

    def _stream_source(self) -> Any:
        if not self.node.dataloader_num_workers:
            return self.dataset
        return DataLoader(
            self.dataset, batch_size=None, collate_fn=_identity, **_worker_settings(self.node, self.device)
        )


class EvalData:
    """The evaluation batches of one rank, in the dataset's order, with the number of samples that count in each: none
    on a rank that only shares the batches of another (``counts`` is False)."""

    def __init__(
        self,
        dataset: Any,
        plan: BatchPlan,
        node: Data,
        *,
        collate: Collate | None,
        seed: int,
        device: torch.device,
        counts: bool = True,
    ) -> None:
        self.dataset, self.plan, self.node, self.device, self.counts = dataset, plan, node, device, counts
        self.fetch = Fetch(dataset, collate, seed)

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        if isinstance(self.dataset, IterableDataset):
            stream, size = iter(self.dataset), self.plan.update_size
            while update := list(islice(stream, size)):
                for chunk, divisor in self.plan.micro_batches(update):
                    yield to_device(self.fetch.collate(list(chunk)), self.device), self._count(chunk, divisor)
            return
        parts = self.plan.micro_batches(range(len(self.dataset)))
        if self.node.dataloader_num_workers:
            keys = _Keys([(0, list(chunk)) for chunk, _ in parts])
            batches: Iterator[Any] = iter(
                DataLoader(
                    _Batches(self.fetch),
                    batch_size=None,
                    sampler=keys,
                    collate_fn=_identity,
                    **_worker_settings(self.node, self.device),
                )
            )
        else:
            batches = (self.fetch(0, list(chunk)) for chunk, _ in parts)
        for (chunk, divisor), batch in zip(parts, batches, strict=True):
            yield to_device(batch, self.device), self._count(chunk, divisor)

    def _count(self, chunk: Sequence[Any], divisor: float) -> int:
        return 0 if math.isinf(divisor) or not self.counts else len(chunk)


class _Keys:
    """A sampler whose keys are set for each epoch, so that persistent workers can stay."""

    def __init__(self, keys: list[Any] | None = None) -> None:
        self.keys = keys or []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Batches(Dataset[Any]):
    """A dataset of whole batches, for workers: an index is (epoch, sample indices), with the batch's place before it
    where batches come in any order: then that comes with the batch."""

    def __init__(self, fetch: Fetch) -> None:
        self.fetch = fetch

    def __getitem__(self, key: tuple[Any, ...]) -> Any:
        *place, epoch, indices = key
        batch = self.fetch(epoch, indices)
        return (*place, batch) if place else batch


def _places(rows: list[Any]) -> Iterator[tuple[int, int]]:
    """(update, micro-batch) of every micro-batch."""
    for k, row in enumerate(rows):
        for i in range(len(row)):
            yield k, i


def _identity(batch: Any) -> Any:
    return batch


def _worker_settings(node: Data, device: torch.device, *, ordered: bool = True) -> dict[str, Any]:
    context = node.dataloader_multiprocessing_context
    return {
        "num_workers": node.dataloader_num_workers,
        "pin_memory": node.dataloader_pin_memory and device.type == "cuda",
        "persistent_workers": node.dataloader_persistent_workers,
        "prefetch_factor": node.dataloader_prefetch_factor,
        **({} if ordered or node.dataloader_in_order else {"in_order": False}),
        "multiprocessing_context": str(context) if context else None,
        # a generator of its own: creating an iterator draws from it, not from the training's random state
        "generator": torch.Generator().manual_seed(0),
    }
