"""Training batches of one rank, update by update, from any step of any epoch on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from ..errors import CheckpointError
from ..rng import put_back, snapshot
from ..schema.data import Data
from .batches import BatchLayout, MicroBatch
from .device import to_device
from .fetch import Collate, Fetch, seed_all
from .order import BY_LENGTH, Order
from .workers import Batches, Keys, make_loader


class TrainData:
    """The training data of one rank.

    ``epoch`` and ``step_in_epoch`` are the cursor: set them, and ``steps()`` continues from there.
    """

    def __init__(
        self, dataset: Any, layout: BatchLayout, node: Data, *, collate: Collate | None, seed: int, device: torch.device
    ) -> None:
        """Raises ValueError for an empty dataset, for one of which data.dataloader_drop_last leaves nothing, and for
        settings that an iterable dataset cannot have."""
        self.dataset, self.layout, self.node, self.seed, self.device = dataset, layout, node, seed, device
        self.fetch = Fetch(dataset, collate, seed)
        self.iterable = isinstance(dataset, IterableDataset)
        self.num_samples = len(dataset) if hasattr(dataset, "__len__") else None
        if self.num_samples == 0:
            raise ValueError("data.train_dataset is empty")
        batch = layout.micro_batch_size * layout.world_size
        if node.dataloader_drop_last and self.num_samples is not None and self.num_samples < batch:
            raise ValueError(
                f"data.dataloader_drop_last=true drops all {self.num_samples} samples of data.train_dataset: "
                f"a batch has {batch} ({layout.micro_batch_size} x {layout.world_size} ranks); fix: "
                "data.dataloader_drop_last=false, or a smaller train.per_device_train_batch_size"
            )
        if self.iterable:
            _check_iterable(node)
        self.steps_per_epoch = (
            None
            if self.num_samples is None
            else layout.steps_per_epoch(self.num_samples, drop_last=node.dataloader_drop_last)
        )
        """Updates of an epoch; None for an iterable dataset without a length."""
        sized = self.num_samples is not None and not self.iterable
        self.order = Order(dataset, node, layout.update_size, seed) if sized else None
        self.epoch = 0
        self.step_in_epoch = 0
        self._workers: DataLoader[Any] | None = None
        self._keys = Keys()
        self._read = 0
        """Samples of a stream's last update that was read."""

    def max_steps(self, max_steps: int, num_train_epochs: float) -> int:
        """Updates of the whole run, as the Trainer counts them."""
        if max_steps > 0:
            return max_steps
        if self.steps_per_epoch is None:
            raise ValueError("data.train_dataset has no length: set train.max_steps")
        return math.ceil(num_train_epochs * self.steps_per_epoch)

    def steps(self) -> Iterator[tuple[list[MicroBatch], bool]]:
        """This rank's micro-batches of each update to the end of the current epoch, and whether it is the epoch's last.

        The cursor moves on before an update is yielded: saved at the end of that step, it points at the next one.
        Raises ValueError where there is no update, which would be so for ever.
        """
        start, empty = self.step_in_epoch, True
        for micro_batches, last in self._from_stream() if self.iterable else self._from_map():
            if last:
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
            else:
                self.step_in_epoch += 1
            empty = False
            yield micro_batches, last
        if empty:
            raise ValueError(self._why_empty(start))

    def _why_empty(self, start: int) -> str:
        """Why the current epoch has no update from step ``start`` on."""
        what, size = f"data.train_dataset gives no update in epoch {self.epoch + 1}", self.layout.update_size
        if start:
            return f"{what} after its first {start} x {size} samples; it was longer when the checkpoint was saved"
        if self._read:
            return (
                f"{what}: its {self._read} samples are fewer than the {size} of an update, and "
                "data.dataloader_drop_last=true drops them; fix: data.dataloader_drop_last=false"
            )
        again = "" if self.epoch == 0 else "; an IterableDataset must start again whenever iter() is called"
        return f"{what}: it yields no sample{again}"

    def state_dict(self) -> dict[str, int]:
        """The cursor, and the sizes that give it its meaning."""
        return {
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "update_size": self.layout.update_size,
            "batch_size": self.layout.micro_batch_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Set the cursor. Raises CheckpointError where an update has another size."""
        size, saved_size = self.layout.update_size, state["update_size"]
        if size != saved_size:
            raise CheckpointError(
                f"the checkpoint was saved with {saved_size} samples per update, this run has {size}: its place in the "
                "data has no meaning here; fix: the same per_device_train_batch_size x gradient_accumulation_steps x "
                "ranks, or checkpoint.allow_drift=[train.per_device_train_batch_size], which goes on at the same sample"
            )
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        if self.steps_per_epoch is not None and self.step_in_epoch >= self.steps_per_epoch:  # of a longer dataset
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    @property
    def progress(self) -> float:
        """Passes over the data up to the cursor, counted in micro-batches as the Trainer does; whole epochs where the
        length is unknown."""
        if self.steps_per_epoch is None:
            return float(self.epoch)
        layout = self.layout
        return self.epoch + self.step_in_epoch * layout.accumulation / layout.num_micro_batches(self._epoch_samples)

    def samples(self, steps: int) -> int:
        """Samples in the run's first ``steps`` updates."""
        size = self.layout.update_size
        if self.steps_per_epoch is None:
            return steps * size
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self._epoch_samples + rest * size

    @property
    def _epoch_samples(self) -> int:
        assert self.num_samples is not None
        assert self.steps_per_epoch is not None
        return min(self.num_samples, self.steps_per_epoch * self.layout.update_size)

    def _from_map(self) -> Iterator[tuple[list[MicroBatch], bool]]:
        assert self.num_samples is not None
        assert self.steps_per_epoch is not None
        assert self.order is not None
        order, epoch, device = self.order(self.epoch), self.epoch, self.device
        size, end = self.layout.update_size, self.steps_per_epoch
        updates = range(self.step_in_epoch, end)

        def split(update: int) -> list[tuple[Sequence[int], float]]:
            assert self.order is not None
            return self.order.micro_batches(order[update * size : (update + 1) * size].tolist(), self.layout)

        if not self.node.dataloader_num_workers:
            for k in updates:
                yield (
                    [(to_device(self.fetch(epoch, chunk), device), divisor) for chunk, divisor in split(k)],
                    k + 1 == end,
                )
            return
        rows = [split(k) for k in updates]
        self._keys.keys = [(epoch, chunk) for row in rows for chunk, _ in row]
        if not self.node.dataloader_in_order:
            yield from self._out_of_order(rows)
            return
        batches = iter(self._loader())
        for k, row in zip(updates, rows, strict=True):
            yield [(to_device(next(batches), device), divisor) for _, divisor in row], k + 1 == end

    def _out_of_order(self, rows: list[list[tuple[Sequence[int], float]]]) -> Iterator[tuple[list[MicroBatch], bool]]:
        """The updates in their order, the micro-batches of each as the workers finish them."""
        places = ((k, i) for k, row in enumerate(rows) for i in range(len(row)))
        self._keys.keys = [(*place, *key) for place, key in zip(places, self._keys.keys, strict=True)]
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
            self._workers = make_loader(Batches(self.fetch), self.node, self.device, keys=self._keys, ordered=False)
        return self._workers

    def _from_stream(self) -> Iterator[tuple[list[MicroBatch], bool]]:
        """Every rank reads the whole stream and keeps its own chunks; a resume skips what was used."""
        updates = self._updates()
        update = next(updates, None)
        while update is not None:
            following = next(updates, None)
            yield (
                [
                    (to_device(self.fetch.collate(list(chunk)), self.device), divisor)
                    for chunk, divisor in self.layout.micro_batches(update)
                ],
                following is None,
            )
            update = following

    def _updates(self) -> Iterator[list[Any]]:
        """The stream's samples, one update at a time, drawn under a random state of the stream's own."""
        size, skip = self.layout.update_size, self.step_in_epoch * self.layout.update_size
        outside = snapshot()
        seed_all((self.seed, self.epoch, 0))
        stream = iter(self._stream_source())
        for _ in islice(stream, skip):
            pass
        while True:
            update = list(islice(stream, size))
            self._read = len(update)
            inside = snapshot()
            put_back(outside)
            if not update or (len(update) < size and self.node.dataloader_drop_last):
                return
            yield update
            outside = snapshot()
            put_back(inside)

    def _stream_source(self) -> Any:
        return make_loader(self.dataset, self.node, self.device) if self.node.dataloader_num_workers else self.dataset


def _check_iterable(node: Data) -> None:
    """Refuse what an iterable dataset cannot have."""
    if node.dataloader_num_workers > 1:
        raise ValueError(
            f"data.dataloader_num_workers={node.dataloader_num_workers}: each worker of an iterable dataset would "
            "repeat every sample; fix: data.dataloader_num_workers=1"
        )
    if node.train_sampling_strategy in BY_LENGTH:
        raise ValueError(
            f"data.train_sampling_strategy={node.train_sampling_strategy}: data.train_dataset is iterable and sets its "
            "own order"
        )
