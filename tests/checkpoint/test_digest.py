"""The digest is the same for the same state, however it is divided, and names what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.checkpoint import digest, shard, store
from trainer.checkpoint.shard import Shard
from trainer.rng import capture_rng

STATE = {"state": {"step": 7}, "scheduler": {"last_epoch": 7, "lrs": [0.1]}, "data": {"epoch": 1, "step_in_epoch": 3}}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model/w": torch.randn(97, 3, generator=generator),
        "model/steps": torch.tensor(5),
        "optim/exp_avg/w": torch.randn(97, 3, generator=generator),
    }


def save(root: Path, values: dict[str, Tensor], state: dict[str, Any], rng: dict[str, Any]) -> dict[str, str]:
    whole = [Shard(name, tuple(value.shape), 0, value.reshape(-1)) for name, value in values.items()]
    return digest.items(store.save(root, 7, shards=whole, state=state, rank_state={"rng": rng}))


def test_the_same_state_has_the_same_digest(tmp_path: Path) -> None:
    rng = capture_rng()
    one, other = (save(tmp_path / name, tensors(), STATE, rng) for name in "ab")
    assert digest.total(one) == digest.total(other)
    assert digest.differences(one, other) == []


def test_the_division_into_files_does_not_matter(tmp_path: Path) -> None:
    whole = save(tmp_path, tensors(), STATE, {})
    divided = tmp_path / "divided"
    divided.mkdir()
    (divided / "state.json").write_bytes((tmp_path / "checkpoint-7" / "state.json").read_bytes())
    for rank in range(3):
        mine = []
        for name, value in tensors().items():
            size = -(-value.numel() // 3)
            start = min(rank * size, value.numel())
            mine.append(Shard(name, tuple(value.shape), start, value.reshape(-1)[start : start + size]))
        shard.write(divided / shard.file_name(rank), mine)
    assert digest.differences(digest.items(divided), whole) == ["rank-00000.rng"]


@pytest.mark.parametrize("left_out", ["model/w", "model/steps", "optim/exp_avg/w"])
def test_one_bit_of_a_tensor_is_named(tmp_path: Path, left_out: str) -> None:
    changed = tensors()
    bits = changed[left_out].reshape(-1).view(torch.uint8)
    bits[-1] ^= 1
    one, other = save(tmp_path / "a", tensors(), STATE, {}), save(tmp_path / "b", changed, STATE, {})
    assert digest.differences(one, other) == [left_out]
    assert digest.total(one) != digest.total(other)


def test_a_missing_tensor_a_counter_and_a_generator_are_named(tmp_path: Path) -> None:
    rng = capture_rng()
    torch.rand(1)
    values = tensors()
    del values["optim/exp_avg/w"]
    state = STATE | {"data": {"epoch": 1, "step_in_epoch": 4}}
    one, other = save(tmp_path / "a", tensors(), STATE, rng), save(tmp_path / "b", values, state, capture_rng())
    assert digest.differences(one, other) == ["optim/exp_avg/w", "rank-00000.rng.torch", "state.data.step_in_epoch"]


def test_negative_zero_and_type_differ(tmp_path: Path) -> None:
    values = [torch.tensor([0.0]), torch.tensor([-0.0]), torch.tensor([0], dtype=torch.int32), torch.tensor([[0.0]])]
    totals = {digest.total(save(tmp_path / str(i), {"model/w": v}, STATE, {})) for i, v in enumerate(values)}
    assert len(totals) == 4
