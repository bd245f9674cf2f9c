"""What tells data from other data."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset

from tests.tiny import Augmented
from trainer.data.fingerprint import compare, fingerprint


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def differences(one: Any, other: Any) -> list[str]:
    first, second = fingerprint(one, {}), fingerprint(other, {})
    assert first
    assert second
    return compare(first, second)


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        ([1, 2], [1, 2, 3], "its length was 2, now it is 3"),
        ([1, 2, 3], [2, 2, 3], "its first item is another one"),
        ([{"a": torch.ones(2)}, 0], [{"a": torch.zeros(2)}, 0], "its first item is another one"),
        ([0, np.ones(2)], [0, np.zeros(2)], "its last item is another one"),
        ([0, torch.ones(2, dtype=torch.bfloat16)], [0, torch.zeros(2, dtype=torch.bfloat16)],
         "its last item is another one"),
        ([torch.tensor(1.0), "b"], [torch.tensor(2.0), "b"], "its first item is another one"),
    ],
)  # fmt: skip
def test_other_data_is_told_apart(one: list[Any], other: list[Any], line: str) -> None:
    assert differences(Items(one), Items(other)) == [line]
    assert differences(Items(one), Items(list(one))) == []


def test_random_items_are_the_same_data_and_the_random_state_stays() -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    one = fingerprint(Augmented(), {})
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    torch.manual_seed(6)
    two = fingerprint(Augmented(), {})
    assert one
    assert two
    assert one["first"] is not None
    assert compare(one, two) == []


def test_items_with_a_generator_of_their_own_are_not_compared() -> None:
    class Noisy(Items):
        generator = np.random.default_rng(0)

        def __getitem__(self, index: int) -> Any:
            return self.generator.random()

    assert differences(Noisy([1, 2]), Noisy([1, 2])) == []


def test_a_stream_is_not_read() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Any:
            raise AssertionError

    assert fingerprint(Stream(), {}) == {"length": None, "first": None, "last": None, "files": []}
    assert fingerprint(None, {}) is None


def test_files_are_told_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "a.txt"
    file.write_text("one")
    node = {"_target_": "x.Y", "root": str(tmp_path / "data"), "files": [str(file)], "text": "no path" * 1000}
    one = fingerprint(Items([1]), node)
    assert one
    assert [path for path, *_ in one["files"]] == [str(file)] * 2
    os.utime(file, ns=(1, 1))
    two = fingerprint(Items([1]), node)
    assert two
    assert compare(one, two) == [f"{file} changed in size or modification time"]
    monkeypatch.chdir(tmp_path / "data")  # where a run writes below it, it is not the data
    assert (fingerprint(Items([1]), {"root": "."}) or {})["files"] == []
