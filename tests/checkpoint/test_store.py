"""A checkpoint is whole or not there; what is not as it was written is never loaded."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.ranks import exit_code, exit_code_killed_at
from trainer import distributed
from trainer.checkpoint import store
from trainer.checkpoint.shard import Shard
from trainer.checkpoint.store import CheckpointError

PLACES = [
    place
    for place in re.findall(r'failpoint\("(checkpoint\.\w+)"\)', Path(store.__file__).read_text())
    if place != "checkpoint.in_deletion"
]
TIMES = [f"{place}#{time}" for place in PLACES for time in ((1, 2) if place.endswith(("_shard", "_json")) else (1,))]


def save(root: Path, step: int, version: int = 0, size: int = 5) -> Path:
    value = torch.full((size, 3), float(step * 100 + version))
    shards = [Shard(name, (size, 3), 0, value.reshape(-1)) for name in ("model/w", "optim/exp_avg/w")]
    return store.save(root, step, shards=shards, state={"version": version}, rank_state={"rng": {"torch": "00ff"}})


def content(path: Path) -> tuple[int, int]:
    """Step and version, from every part of the checkpoint."""
    saved = store.load(path)
    assert saved.rank_state == {"rng": {"torch": "00ff"}}
    for name in ("model/w", "optim/exp_avg/w"):
        assert set(saved.reader.read(name).tolist()) == {float(saved.step * 100 + saved.state["version"])}
    return saved.step, saved.state["version"]


def names(root: Path) -> list[str]:
    return sorted(os.listdir(root))


def flip(path: Path, position: int, mask: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path / "a" / "checkpoints", 3)
    assert path == tmp_path / "a" / "checkpoints" / "checkpoint-3"
    assert names(path) == ["manifest.json", "rank-00000.json", "rank-00000.safetensors", "state.json"]
    saved = store.load(path)
    assert (saved.step, saved.world_size, saved.state) == (3, 1, {"version": 0})
    assert content(path) == (3, 0)
    assert store.newest(path.parent) == (path, [])


def test_another_world_size_has_no_rank_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 3)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert store.load(path, verified=True).rank_state is None


def test_permissions_are_the_users_own(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.mkdir()
    assert save(tmp_path, 1).stat().st_mode == usual.stat().st_mode


# Damage -------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_every_file_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1, size=1)
    for file in path.iterdir():
        for position in range(file.stat().st_size):
            mask = 1 << position % 8
            flip(file, position, mask)
            with pytest.raises(CheckpointError, match=re.escape(file.name)) as caught:
                store.verify(path)
            assert "\n" not in str(caught.value)
            flip(file, position, mask)
    store.verify(path)


@pytest.mark.parametrize("name", ["manifest.json", "rank-00000.json", "rank-00000.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer"])
def test_every_wrong_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    file = save(tmp_path, 1) / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes({"truncated": data[:-1], "empty": b"", "longer": data + b"x"}[damage])
    with pytest.raises(CheckpointError, match=re.escape(name)):
        store.verify(file.parent)


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    for changed in (manifest | {"step": 2}, manifest | {"files": {}}, [], {}, None):
        (path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=r"manifest\.json (does not match its own digest|cannot be read)"):
            store.verify(path)


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    path = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2 is from a newer release"):
        store.verify(path)


def test_a_stray_rank_file_is_refused_and_others_are_not(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "notes.txt").write_text("the good one")
    store.verify(path)
    shutil.copy(path / "rank-00000.safetensors", path / "rank-00001.safetensors")
    with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors is not in manifest\.json"):
        store.verify(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        store.load(tmp_path / "checkpoint-9")
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        store.load(tmp_path)


def test_the_one_before_is_used_with_one_line(tmp_path: Path) -> None:
    for step in (5, 10, 9):
        save(tmp_path, step)
    assert store.newest(tmp_path)[0] == tmp_path / "checkpoint-10"
    flip(tmp_path / "checkpoint-10" / "rank-00000.safetensors", -1)
    path, warnings = store.newest(tmp_path)
    assert path == tmp_path / "checkpoint-9"
    assert len(warnings) == 1
    line = r"skipped a damaged checkpoint: .*checkpoint-10/rank-00000\.safetensors: the sha256.*"
    assert re.fullmatch(line, warnings[0])


def test_all_damaged_is_an_error_and_none_at_all_is_not(tmp_path: Path) -> None:
    assert store.newest(tmp_path) == (None, [])
    assert store.newest(tmp_path / "nowhere") == (None, [])
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole: .*checkpoint-2/state.json.*checkpoint-1/state"):
        store.newest(tmp_path)


def edit(path: Path, **changes: object) -> None:
    """Change the manifest and give it the digest that belongs to it; None removes a key."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["digest"]
    manifest = {key: value for key, value in (manifest | changes).items() if value is not None}
    (path / "manifest.json").write_text(json.dumps(manifest | {"digest": store._digest(manifest)}))


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    shutil.move(path, path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "manifest is a fifo": (lambda p: replace_by_fifo(p / "manifest.json"), "manifest.json cannot be read: OSError: it"),
    "state is a fifo": (lambda p: replace_by_fifo(p / "state.json"), "state.json: cannot be read: it is not a regular"),
    "manifest is a link": (lambda p: replace_by_link(p / "manifest.json"), "is a link out of the checkpoint"),
    "shard is a link": (lambda p: replace_by_link(p / "rank-00000.safetensors"), "is a link out of the checkpoint"),
    "manifest is a directory": (lambda p: ((p / "manifest.json").unlink(), (p / "manifest.json").mkdir()), "regular"),
    "manifest is nested deep": (lambda p: (p / "manifest.json").write_text("[" * 100_000), "RecursionError"),
    "manifest is a nested object": (lambda p: (p / "manifest.json").write_text('{"a":' * 100_000), "RecursionError"),
    "no step": (lambda p: edit(p, step=None), "has no step"),
    "step is text": (lambda p: edit(p, step="9"), "has no step"),
    "no format": (lambda p: edit(p, format=None), "has no format"),
    "no world size": (lambda p: edit(p, world_size=None), "has no world_size"),
    "other world size": (lambda p: edit(p, world_size=10**9), "lists 3 files of 1000000000 ranks"),
    "no files": (lambda p: edit(p, files=None), "lists no state.json"),
    "files is a list": (lambda p: edit(p, files=["state.json"]), "lists no state.json"),
    "absolute": (lambda p: edit(p, files={"state.json": {}, "/etc/passwd": {}, "a": {}}), "not a checkpoint's file"),
    "parent": (lambda p: edit(p, files={"state.json": {}, "../x": {}, "a": {}}), "'../x', which is not"),
    "no checksum": (lambda p: edit(p, files={"state.json": {}, "rank-0.json": {}, "rank-1.json": {}}), "no size and"),
    "other step": (lambda p: edit(p, step=6), "holds step 6: the directory was renamed"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_directory_is_one_line_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 5)
    action, words = DAMAGE[damage]
    action(save(tmp_path, 9))
    path, (line,) = store.newest(tmp_path)
    assert path == tmp_path / "checkpoint-5"
    assert words in line
    assert "\n" not in line
    assert len(line) < 500


def test_a_renamed_directory_is_damaged(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 6).rename(tmp_path / "checkpoint-99")
    path, (line,) = store.newest(tmp_path)
    assert path == tmp_path / "checkpoint-5"
    assert "checkpoint-99: holds step 6: the directory was renamed" in line


# Kill -9 ------------------------------------------------------------------------------------------------------


def assert_old_or_new(root: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    """What the next start finds after a kill, and that it can go on."""
    for name in names(root):
        assert name.startswith(".") or content(root / name), "a half checkpoint was visible"
    store.clean(root)
    assert all(re.fullmatch(r"checkpoint-\d+", name) for name in names(root))
    path, warnings = store.newest(root)
    assert path is not None
    assert not warnings
    assert content(path) in (old, new)
    assert content(save(root, *new)) == new
    assert store.newest(root)[0] == root / f"checkpoint-{new[0]}"
    assert not [name for name in names(root) if name.startswith(".")]


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize("place", TIMES)
def test_kill_at_each_failpoint(tmp_path: Path, place: str, replaces: bool) -> None:
    old, new = ((2, 0), (2, 1)) if replaces else ((1, 0), (2, 0))
    save(tmp_path, *old)
    code = exit_code(lambda: save(tmp_path, *new), f"{place}=kill9")
    assert code == (0 if "between" in place and not replaces else -signal.SIGKILL)
    assert_old_or_new(tmp_path, old, new)


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize(
    ("syscalls", "at_least"),
    [("mkdir(at)?", 1), ("openat", 6), ("write", 4), ("fsync", 6), ("rename(at2?)?", 1), ("unlink(at)?|rmdir", 0)],
)
def test_kill_at_each_system_call(tmp_path: Path, syscalls: str, at_least: int, replaces: bool) -> None:
    old, new = ((2, 0), (2, 1)) if replaces else ((1, 0), (2, 0))
    for time in range(1, 100):
        root = tmp_path / str(time)
        save(root, *old)
        code = exit_code_killed_at(lambda root=root: save(root, *new), syscalls, time)
        assert code in (0, -signal.SIGKILL)
        assert_old_or_new(root, old, new)
        if code == 0:
            break
    assert time > at_least + replaces * (syscalls[0] in "ru")


def test_kill_in_the_middle_of_a_deletion(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert exit_code(lambda: store.prune(tmp_path, 1), "checkpoint.in_deletion=kill9") == -signal.SIGKILL
    store.clean(tmp_path)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    assert content(tmp_path / "checkpoint-2") == (2, 0)


# A save that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["raise", "enospc"])
@pytest.mark.parametrize("place", TIMES)
def test_a_failed_save_leaves_nothing(tmp_path: Path, place: str, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 2, 0)
    monkeypatch.setenv("TRAINER_FAILPOINTS", f"{place.partition('#')[0]}={action}")
    with pytest.raises(OSError, match=r"checkpoint-2 was not saved: .*(No space left on device|RuntimeError)"):
        save(tmp_path, 2, 1)
    monkeypatch.undo()
    assert_old_or_new(tmp_path, (2, 0), (2, 1))


def test_what_json_cannot_hold_is_refused_before_the_checkpoint_appears(tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"checkpoint-1 was not saved: TypeError: state\.a: JSON cannot represent a builtins\.set"
    ):
        store.save(tmp_path, 1, shards=[], state={"a": {1}}, rank_state={})
    assert names(tmp_path) == []


def assert_no_space(root: Path, size: int) -> None:
    with pytest.raises(OSError, match=r"checkpoint-2 was not saved: .*(No space left|File too large)"):
        save(root, 2, size=size)
    assert names(root) == ["checkpoint-1"]
    assert store.newest(root) == (root / "checkpoint-1", [])


def test_a_file_too_large(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        assert_no_space(tmp_path, 100_000)

    assert exit_code(limited) == 0


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("size", [50_000, 43_500, 43_600], ids=str)  # 1.2 MB, and so little short that the end is hit
def test_a_full_disk(tiny_disk: Path, size: int) -> None:
    save(tiny_disk, 1)
    assert_no_space(tiny_disk, size)
    assert content(save(tiny_disk, 2)) == (2, 0)


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoint-1 was not saved"):
        save(tmp_path / "file", 1)


# Leftovers and retention --------------------------------------------------------------------------------------


def test_clean_removes_leftovers_only(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".tmp-checkpoint-2-abc").mkdir()
    (tmp_path / ".tmp-checkpoint-2-abc" / "rank-00000.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / ".mine").mkdir()
    store.clean(tmp_path)
    assert names(tmp_path) == [".mine", "checkpoint-1", "checkpoint-best"]
    store.clean(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("limit", "protect", "kept"),
    [
        (None, [], [1, 2, 3, 10]),
        (9, [], [1, 2, 3, 10]),
        (3, [], [2, 3, 10]),
        (1, [], [10]),
        (2, [1], [1, 10]),
        (1, [1], [1, 10]),  # as HF: the best and the newest, whatever the limit
        (3, [1], [1, 3, 10]),
        (1, [1, 3], [1, 3, 10]),
        (2, [77], [3, 10]),
    ],
)
def test_retention(tmp_path: Path, limit: int | None, protect: list[int], kept: list[int]) -> None:
    for step in (10, 2, 1, 3):
        save(tmp_path, step)
    store.prune(tmp_path, limit, protect)
    assert names(tmp_path) == sorted(f"checkpoint-{step}" for step in kept)
