from __future__ import annotations

import math

import pytest

from trainer.data.batches import BatchLayout, epoch_order

SPLITS = [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4), (2, 4, 1)]


@pytest.mark.parametrize("size", [8, 7, 5, 3, 1])
@pytest.mark.parametrize(("micro", "accumulation", "world"), SPLITS)
def test_every_sample_of_an_update_weighs_the_same_in_any_split(
    micro: int, accumulation: int, world: int, size: int
) -> None:
    weights = dict.fromkeys(range(size), 0.0)
    rounds = set()
    for rank in range(world):
        parts = BatchLayout(micro, accumulation, world, rank).micro_batches(range(size))
        rounds.add(len(parts))
        for chunk, divisor in parts:
            assert 1 <= len(chunk) <= micro
            for sample in chunk:
                # the mean over the chunk, divided, averaged over the ranks
                weights[sample] += 1 / len(chunk) / divisor / world
    assert len(rounds) == 1, "the ranks differ in the number of their collectives"
    assert all(math.isclose(weight, 1 / size) for weight in weights.values())


def test_a_full_update_divides_by_the_accumulation_steps_exactly() -> None:
    parts = BatchLayout(4, 3, 2, 1).micro_batches(range(24))
    assert [divisor for _, divisor in parts] == [3.0, 3.0, 3.0]
    assert [list(chunk) for chunk, _ in parts] == [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]]


@pytest.mark.parametrize(("drop_last", "steps"), [(False, 7), (True, 6)])
def test_steps_per_epoch(drop_last: bool, steps: int) -> None:
    assert BatchLayout(4, 2, 1, 0).steps_per_epoch(49, drop_last=drop_last) == steps


def test_the_order_is_accelerates() -> None:
    data_loader = pytest.importorskip("accelerate.data_loader")
    import torch

    sampler = data_loader.SeedableRandomSampler(range(49), generator=torch.Generator(), data_seed=42)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert list(sampler) == epoch_order(49, 42, epoch).tolist()
