"""The datasets of the package: splits that do not overlap, batches equal to their items."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer.data.digits import Digits
from trainer.data.tensors import Tensors
from trainer.data.text import TextBlocks, reference_text
from trainer.schema import data as schema


def test_text_splits_hold_the_text_once() -> None:
    train, evaluation = (TextBlocks(schema.TextBlocks(split=split, block_size=100)) for split in ("train", "eval"))
    data = reference_text().encode()
    border = len(data) * 9 // 10
    assert bytes(train.blocks.flatten().tolist()) == data[: border // 100 * 100]
    assert bytes(evaluation.blocks.flatten().tolist()) == data[border:][: len(evaluation) * 100]
    assert 400_000 < len(data) < 1_000_000
    assert 'The "assert" statement' in reference_text()


def test_text_batches_are_finished() -> None:
    dataset = TextBlocks(schema.TextBlocks())
    batch = dataset.__getitems__([3, 1, 3])
    for row, index in enumerate([3, 1, 3]):
        item = dataset[index]
        assert all(torch.equal(batch[key][row], item[key]) for key in ("input_ids", "labels"))
    assert (batch["input_ids"].shape, batch["input_ids"].dtype) == ((3, 128), torch.long)
    batch["input_ids"].zero_()
    assert dataset.blocks.all()


def test_digits_splits_are_fixed_and_apart() -> None:
    train, evaluation = (Digits(schema.Digits(split=split)) for split in ("train", "eval"))
    assert (len(train), len(evaluation)) == (1437, 360)
    inputs, targets = train.__getitems__(range(1437))
    again, _ = Digits(schema.Digits()).__getitems__(range(1437))
    assert torch.equal(inputs, again)
    assert (inputs.min().item(), inputs.max().item(), inputs.dtype) == (0.0, 1.0, torch.float32)
    assert sorted(set(targets.tolist())) == list(range(10))
    rows = {tuple(row) for row in inputs.tolist()}
    assert not any(tuple(row) in rows for row in evaluation.__getitems__(range(360))[0].tolist())


def test_tensors() -> None:
    dataset = Tensors(torch.arange(5), torch.arange(5) * 2)
    assert len(dataset) == 5
    assert dataset[3] == (3, 6)
    assert [t.tolist() for t in dataset.__getitems__([4, 0])] == [[4, 0], [8, 0]]
    with pytest.raises(ValueError, match=r"\[5, 4\]"):
        Tensors(torch.arange(5), torch.arange(4))


@pytest.mark.parametrize(
    ("dataset", "node"),
    [(TextBlocks, schema.TextBlocks(split="test")), (Digits, schema.Digits(split="test"))],
)
def test_an_unknown_split_is_said(dataset: Any, node: Any) -> None:
    with pytest.raises(ValueError, match="split=test: allowed: train, eval"):
        dataset(node)


def test_text_that_is_too_short_is_said() -> None:
    with pytest.raises(ValueError, match=r"block_size=10000000 exceeds the .* bytes of the train text"):
        TextBlocks(schema.TextBlocks(block_size=10_000_000))


@pytest.mark.parametrize("dataset", [TextBlocks, Digits, Tensors])
def test_fetching_draws_no_random_numbers(dataset: Any) -> None:
    assert dataset.draws_random is False
