"""Checkpoints of several ranks: one agreed outcome, whichever rank fails."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch

from tests.ranks import exit_codes
from trainer import distributed
from trainer.checkpoint import digest, store
from trainer.checkpoint.shard import Shard
from trainer.checkpoint.store import CheckpointError

WHOLE = torch.arange(97.0)


def save(root: Path, step: int) -> Path:
    """Each rank writes its part of one tensor."""
    size = -(-97 // distributed.world_size())
    start = min(distributed.rank() * size, 97)
    shard = Shard("model/w", (97,), start, WHOLE[start : start + size] + step)
    return store.save(root, step, shards=[shard], state={"step": step}, rank_state={"rank": distributed.rank()})


def assert_save_fails(root: Path, step: int, error: str) -> None:
    with pytest.raises(OSError, match=error):
        save(root, step)


def assert_newest(root: Path, step: int) -> None:
    """Every rank finds the same checkpoint and what it alone knew."""
    store.clean(root)
    path, warnings = store.newest(root)
    assert path == root / f"checkpoint-{step}"
    saved = store.load(path, verified=True)
    assert (saved.step, saved.world_size, warnings) == (step, distributed.world_size(), [])
    assert saved.rank_state == {"rank": distributed.rank()}
    assert saved.reader.read_whole("model/w").tolist() == (WHOLE + step).tolist()


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks_make_one_checkpoint(tmp_path: Path, ranks: int) -> None:
    def action() -> None:
        save(tmp_path, 4)
        assert_newest(tmp_path, 4)

    assert exit_codes(action, ranks) == [0] * ranks
    assert len(list(tmp_path.glob("checkpoint-4/rank-*.safetensors"))) == ranks
    saved = store.load(tmp_path / "checkpoint-4")
    assert saved.rank_state is None  # one process reads what several wrote, but is none of them
    save(tmp_path / "alone", 4)
    one, many = digest.items(tmp_path / "alone" / "checkpoint-4"), digest.items(tmp_path / "checkpoint-4")
    assert all(name.startswith("rank-") for name in digest.differences(one, many))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("action", ["enospc", "raise"])
def test_a_failure_on_one_rank_is_a_failure_on_all(tmp_path: Path, rank: int, action: str) -> None:
    def both() -> None:
        save(tmp_path, 1)
        assert_save_fails(
            tmp_path, 2, rf"checkpoint-2 was not saved: rank {rank}: .*failpoint checkpoint.after_shard\b"
        )
        assert_newest(tmp_path, 1)

    assert exit_codes(both, 2, f"checkpoint.after_shard@rank{rank}#2={action}") == [0, 0]
    assert os.listdir(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("place", ["after_shard", "after_json", "before_rename", "after_rename"])
def test_a_killed_rank_leaves_the_old_or_the_new(tmp_path: Path, rank: int, place: str) -> None:
    def both() -> None:
        save(tmp_path, 1)
        save(tmp_path, 2)

    codes = exit_codes(both, 2, f"checkpoint.{place}@rank{rank}#{3 if place == 'after_json' and not rank else 2}=kill9")
    published_by_rank_0_only = rank == 1 and "rename" in place
    assert (codes[rank] == -signal.SIGKILL) is not published_by_rank_0_only
    survived = place == "after_rename" or published_by_rank_0_only
    assert exit_codes(lambda: assert_newest(tmp_path, 2 if survived else 1), 2) == [0, 0]
    assert not [name for name in os.listdir(tmp_path) if not re.fullmatch(r"checkpoint-\d", name)]


def test_damage_in_one_ranks_share_is_known_to_all(tmp_path: Path) -> None:
    def both() -> None:
        save(tmp_path, 1)
        path = save(tmp_path, 2)
        if distributed.rank() == 0:
            file = path / "rank-00001.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        distributed.barrier()
        with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors: the sha256 differs"):
            store.verify(path)
        found, warnings = store.newest(tmp_path)
        assert found == tmp_path / "checkpoint-1"
        assert len(warnings) == 1

    assert exit_codes(both, 2) == [0, 0]
