"""The default collation: lists become tensors, what differs in length is padded, unused columns stay out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.data.collate import Collate

LABELS = ("labels", "label", "target")


def test_lists_of_numbers_become_rows() -> None:
    batch = Collate(None, LABELS)(
        [{"ids": [1, 2], "label": 1, "score": 0.5}, {"ids": [3, 4], "label": 0, "score": 1.0}]
    )
    assert batch["ids"].tolist() == [[1, 2], [3, 4]]
    assert batch["label"].tolist() == [1, 0]
    assert batch["score"].dtype == torch.float32


def test_lengths_that_differ_are_padded() -> None:
    items = [
        {"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor([1, 2, 3]), "x": np.ones((3, 2), np.float32)},
        {"input_ids": torch.tensor([4]), "labels": torch.tensor([4]), "x": np.ones((1, 2), np.float32)},
    ]
    batch = Collate(None, LABELS)(items)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert batch["x"][1].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert "attention_mask" not in batch
    lists = Collate(None, LABELS)([{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [3], "labels": [3]}])
    assert lists["labels"].tolist() == [[1, 2], [3, -100]]


def test_a_model_that_takes_a_mask_gets_one_where_there_is_padding() -> None:
    collate = Collate(frozenset({"input_ids", "attention_mask"}), LABELS)
    assert collate([{"input_ids": [1, 2]}, {"input_ids": [3]}])["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert "attention_mask" not in collate([{"input_ids": [1, 2]}, {"input_ids": [3, 4]}])
    own = [{"input_ids": [1, 2], "attention_mask": [0, 1]}, {"input_ids": [3], "attention_mask": [1]}]
    assert collate(own)["attention_mask"].tolist() == [[0, 1], [1, 0]]


def test_pairs() -> None:
    inputs, targets = Collate(None, ())([(torch.tensor([1, 2]), torch.tensor([1, 2])), (torch.tensor([3]),) * 2])
    assert inputs.tolist() == [[1, 2], [3, 0]]
    assert targets.tolist() == [[1, 2], [3, -100]]
    inputs, targets = Collate(None, ())([(torch.tensor([1.0]), 1), (torch.tensor([2.0]), 0)])
    assert targets.tolist() == [1, 0]


def test_columns() -> None:
    items = [{"x": 1, "text": object()}, {"x": 2, "text": object()}]
    assert list(Collate(frozenset({"x"}), LABELS)(items)) == ["x"]
    with pytest.raises(TypeError):
        Collate(None, LABELS)(items)
    with pytest.raises(ValueError, match="leaves nothing of an item: it has x, text, the model takes y"):
        Collate(frozenset({"y"}), LABELS)(items)
