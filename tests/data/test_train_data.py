from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tests.devices import own_device
from trainer.data.batches import BatchLayout
from trainer.data.fetch import Fetch
from trainer.data.train_data import TrainData
from trainer.rng import snapshot, touched
from trainer.schema.data import Data

pytestmark = pytest.mark.usefixtures("device")


class Noisy(Dataset[Tensor]):
    """Draws from every generator at each access."""

    def __len__(self) -> int:
        return 13

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index + torch.rand(()).item(), random.random(), float(np.random.rand())])


class Quiet(Dataset[Tensor]):
    def __len__(self) -> int:
        return 13

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index)])


class Late(Quiet):
    """Draws for one sample only, after many that drew nothing."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([torch.rand(()).item() if index == 7 else float(index)])


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        for i in range(11):
            yield torch.tensor([i + torch.rand(()).item()])


def loader(
    dataset: Any, *, micro: int = 3, accumulation: int = 1, world: int = 1, rank: int = 0, **node: Any
) -> TrainData:
    return TrainData(
        dataset, BatchLayout(micro, accumulation, world, rank), Data(**node), collate=None, seed=5, device=own_device()
    )


def steps(data: TrainData, epochs: int = 2) -> list[Any]:
    return [[batch for batch, _ in micro] for _ in range(epochs) for micro, _ in data.steps()]


def flat(values: list[Any]) -> list[list[list[float]]]:
    return [[batch.tolist() for batch in step] for step in values]


@pytest.mark.parametrize("dataset", [Noisy, Quiet, Late, Stream])
def test_fetching_leaves_the_trainings_random_state_alone(dataset: Any) -> None:
    before = snapshot()
    steps(loader(dataset()))
    assert not touched(before)


@pytest.mark.parametrize("dataset", [Noisy, Late])
def test_random_samples_are_a_function_of_seed_epoch_and_index(dataset: Any) -> None:
    whole = flat(steps(loader(dataset())))
    torch.manual_seed(99)  # whatever the training draws between
    assert flat(steps(loader(dataset()))) == whole
    samples = sorted(sample for step in whole for batch in step for sample in batch)
    split = flat(steps(loader(dataset(), micro=2, accumulation=2)))
    assert sorted(sample for step in split for batch in step for sample in batch) == samples


@pytest.mark.parametrize("dataset", [Noisy, Quiet, Late])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(dataset: Any, persistent: bool) -> None:
    workers = loader(dataset(), dataloader_num_workers=2, dataloader_persistent_workers=persistent)
    assert flat(steps(workers)) == flat(steps(loader(dataset())))


@pytest.mark.parametrize("dataset", [Noisy, Late, Stream])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_cursor_goes_on_where_it_was(dataset: Any, workers: int) -> None:
    whole = flat(steps(loader(dataset(), dataloader_num_workers=workers), epochs=3))
    first = loader(dataset(), dataloader_num_workers=workers)
    taken: list[Any] = []
    while len(taken) < 6:
        for micro, _ in first.steps():
            taken.append([batch.tolist() for batch, _ in micro])
            if len(taken) == 6:
                break
    second = loader(dataset(), dataloader_num_workers=workers)
    second.epoch, second.step_in_epoch = first.epoch, first.step_in_epoch
    while second.epoch < 3:
        taken += flat([[batch for batch, _ in micro] for micro, _ in second.steps()])
    assert taken == whole


@pytest.mark.parametrize("dataset", [Quiet, Stream])
def test_the_ranks_share_out_the_same_updates(dataset: Any) -> None:
    one = steps(loader(dataset(), micro=4, accumulation=1), epochs=1)
    ranks = [steps(loader(dataset(), micro=2, world=2, rank=rank), epochs=1) for rank in range(2)]
    for update, *parts in zip(one, *ranks, strict=True):
        together = {sample for part in parts for batch in part for sample in batch.flatten().tolist()}
        assert together == set(update[0].flatten().tolist())


def test_the_last_step_of_an_epoch_is_known_and_the_cursor_is_then_at_the_next() -> None:
    for dataset in (Quiet(), Stream()):
        data = loader(dataset)
        lasts = []
        for _, last in data.steps():
            lasts.append(last)
            assert (data.epoch, data.step_in_epoch) == ((1, 0) if last else (0, len(lasts)))
        assert lasts == [False] * (len(lasts) - 1) + [True]


@pytest.mark.parametrize(
    ("dataset", "node", "progress", "samples"),
    [
        (Quiet(), {}, [2 / 5, 4 / 5, 1.0], [6, 12, 13, 19]),
        (Quiet(), {"dataloader_drop_last": True}, [1 / 2, 1.0], [6, 12, 18, 24]),
        (Stream(), {}, [0.0, 1.0], [6, 12, 18, 24]),
    ],
)
def test_progress_counts_micro_batches_and_samples_are_counted_without_those_that_are_not_there(
    dataset: Any, node: dict[str, Any], progress: list[float], samples: list[int]
) -> None:
    data = loader(dataset, accumulation=2, **node)
    assert [data.progress for _ in data.steps()] == progress
    assert [data.samples(steps) for steps in (1, 2, 3, 4)] == samples


def test_a_tensor_dataset_is_fetched_at_once_with_the_same_values() -> None:
    tensors = torch.arange(12.0).view(6, 2), torch.arange(6)
    x, y = Fetch(TensorDataset(*tensors), None, 0)(0, [4, 1])
    assert x.tolist() == [[8, 9], [2, 3]]
    assert y.tolist() == [4, 1]


def test_getitems_may_return_items_or_a_finished_batch() -> None:
    class Items(Quiet):
        def __getitems__(self, indices: list[int]) -> list[Tensor]:
            return [torch.tensor(float(i)) for i in indices]

    class Finished(Quiet):
        def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
            return {"x": torch.tensor(indices)}

    assert Fetch(Items(), None, 0)(0, [3, 1]).tolist() == [3.0, 1.0]
    assert Fetch(Finished(), None, 0)(0, [3, 1])["x"].tolist() == [3, 1]


def test_a_collate_fn_replaces_the_collation() -> None:
    assert Fetch(Quiet(), len, 0)(0, [1, 2, 3]) == 3


def test_an_iterable_dataset_takes_one_worker_at_most() -> None:
    with pytest.raises(ValueError, match="dataloader_num_workers=1"):
        loader(Stream(), dataloader_num_workers=2)


def test_an_unsized_dataset_needs_max_steps() -> None:
    with pytest.raises(ValueError, match=r"train\.max_steps"):
        loader(Stream()).max_steps(-1, 3.0)
    assert loader(Stream()).max_steps(7, 3.0) == 7


@pytest.mark.parametrize(("epochs", "steps"), [(3.0, 15), (0.5, 3), (1.1, 6)])
def test_max_steps_is_the_trainers_arithmetic(epochs: float, steps: int) -> None:
    assert loader(Quiet()).max_steps(-1, epochs) == steps


class Short(IterableDataset[Tensor]):
    """A stream that may be read once: the second iter() continues where the first has ended."""

    def __init__(self, samples: int) -> None:
        self.rest = iter(range(samples))

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.tensor([float(i)]) for i in self.rest)


@pytest.mark.parametrize(
    ("samples", "epoch", "start", "expected"),
    [
        (0, 0, 0, "no update in epoch 1: it yields no sample"),
        (2, 0, 0, "its 2 samples are fewer than the 3 of an update, and data.dataloader_drop_last=true drops them"),
        (0, 1, 0, r"in epoch 2: it yields no sample; an IterableDataset must start again whenever iter\(\) is called"),
        (4, 0, 2, "after its first 2 x 3 samples; it was longer when"),
    ],
)
def test_an_epoch_without_an_update_is_an_error(samples: int, epoch: int, start: int, expected: str) -> None:
    data = loader(Short(samples), dataloader_drop_last=True)
    data.epoch, data.step_in_epoch = epoch, start
    with pytest.raises(ValueError, match=expected):
        list(data.steps())


def test_a_dataset_that_has_become_shorter_is_an_error() -> None:
    data = loader(Quiet())
    data.step_in_epoch = 5
    with pytest.raises(ValueError, match="it was longer when"):
        list(data.steps())


def test_a_stream_that_can_be_read_once_ends_the_second_epoch() -> None:
    data = loader(Short(7))
    assert len(list(data.steps())) == 3
    with pytest.raises(ValueError, match="must start again"):
        list(data.steps())


def test_drop_last_of_all_samples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drops all 13 samples .*: a batch has 14 \(7 x 2 ranks\)"):
        loader(Quiet(), micro=7, world=2, dataloader_drop_last=True)
    assert loader(Quiet(), micro=6, accumulation=3, world=2, dataloader_drop_last=True).steps_per_epoch == 1
