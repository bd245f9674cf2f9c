from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch.utils.data import IterableDataset

from tests.devices import own_device
from trainer.data.batches import BatchLayout
from trainer.data.eval_data import EvalData
from trainer.schema.data import Data

pytestmark = pytest.mark.usefixtures("device")
SAMPLES = [float(i) for i in range(13)]


class Stream(IterableDataset[float]):
    def __iter__(self) -> Iterator[float]:
        return iter(SAMPLES)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_counts_every_sample_once_and_the_ranks_keep_step(world: int, workers: int) -> None:
    seen: list[float] = []
    lengths = set()
    for rank in range(world):
        node = Data(dataloader_num_workers=workers)
        batches = list(
            EvalData(SAMPLES, BatchLayout(4, 1, world, rank), node, collate=None, seed=0, device=own_device())
        )
        lengths.add(len(batches))
        seen += [sample for batch, count in batches if count for sample in batch.flatten().tolist()]
    assert sorted(seen) == SAMPLES
    assert len(lengths) == 1


@pytest.mark.parametrize("dataset", [SAMPLES, Stream()])
def test_a_rank_that_reads_the_batches_of_another_counts_none_of_them(dataset: Any) -> None:
    node, layout = Data(), BatchLayout(4, 1, 1, 0)
    own, copied = (
        list(EvalData(dataset, layout, node, collate=None, seed=0, device=own_device(), primary=primary))
        for primary in (True, False)
    )
    assert [batch.tolist() for batch, _ in own] == [batch.tolist() for batch, _ in copied]
    assert [count for _, count in own] == [4, 4, 4, 1]
    assert [count for _, count in copied] == [0, 0, 0, 0]
