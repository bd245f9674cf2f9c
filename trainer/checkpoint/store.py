"""Checkpoints: directories that are either whole or absent, and verified by checksum before anything is loaded.

    checkpoints/checkpoint-<step>/
      rank-<r>.safetensors   the shards of rank r (shard.py)
      rank-<r>.json          the state of rank r alone: its random number generators
      state.json             the state that all ranks share: step, cursor, scheduler, optimizer options ...
      manifest.json          size and sha256 of each file above, and a digest of itself; written last

A save fills `.tmp-checkpoint-<step>-<random>` and renames it once everything is on the disk. A checkpoint-<step> that
exists already (the run went back and reached the step again) first becomes `.old-checkpoint-<step>-<random>`. Between
the two renames no checkpoint-<step> is visible; `clean`, which every start calls first, then restores the old one.
Hidden names never count as checkpoints, so a kill at any point leaves either the old or the new one, whole.

All functions but `read_manifest` are collective: every rank calls them, on a file system that all ranks share, and a
failure on one rank raises the same exception on all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from .. import distributed
from ..errors import CheckpointError, describe
from . import files, shard
from .failpoints import failpoint
from .shard import Shard, ShardReader

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
MANIFEST_LIMIT = 64 << 20
"""Bytes; a manifest has about 120 for each file, two files for each rank."""
_NAME = re.compile(r"checkpoint-(\d+)")
_FILE = re.compile(r"state\.json|rank-\d+\.(safetensors|json)")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Saved:
    """A verified checkpoint, opened."""

    path: Path
    step: int
    world_size: int
    state: dict[str, Any]
    """The state that all ranks share."""
    rank_state: dict[str, Any] | None
    """This rank's own state; None if another number of ranks wrote the checkpoint."""
    reader: ShardReader


def save(root: Path, step: int, *, shards: Sequence[Shard], state: dict[str, Any], rank_state: dict[str, Any]) -> Path:
    """Write checkpoint-<step> under ``root`` and return its path.

    ``state`` (rank 0's is written) and each rank's ``rank_state`` are JSON. Raises OSError on all ranks when the save
    failed on any; nothing is left of it then.
    """
    task = f"{root / f'checkpoint-{step}'} was not saved"
    made = _on_every_rank(lambda: _make_directory(root, step), OSError, task)
    directory = root / distributed.broadcast(made[0] if made else "")
    try:
        written = _on_every_rank(lambda: _write_files(directory, shards, state, rank_state), OSError, task)
        records = {name: record for part in written for name, record in part.items()}
        _on_every_rank(lambda: _publish(directory, root / f"checkpoint-{step}", step, records), OSError, task)
    except Exception:
        if distributed.is_main():
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return root / f"checkpoint-{step}"


def _make_directory(root: Path, step: int) -> str:
    if not distributed.is_main():
        return ""
    if not root.is_dir():
        root.mkdir(parents=True)
        files.sync_directory(root.parent)
    directory = root / f".tmp-checkpoint-{step}-{secrets.token_hex(4)}"
    directory.mkdir()
    failpoint("checkpoint.after_directory")
    return directory.name


def _write_files(
    directory: Path, shards: Sequence[Shard], state: dict[str, Any], rank_state: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    rank = distributed.rank()
    name = shard.file_name(rank)
    records = {name: shard.write(directory / name, shards, lambda: failpoint("checkpoint.after_shard"))}
    failpoint("checkpoint.after_shards")
    texts = {f"rank-{rank:05d}.json": files.dumps(rank_state, "rank_state")}
    if distributed.is_main():
        texts[STATE] = files.dumps(state, "state")
    for name, text in texts.items():
        records[name] = files.write(directory / name, [text.encode()])
        failpoint("checkpoint.after_json")
    return {name: asdict(record) for name, record in records.items()}


def _publish(directory: Path, target: Path, step: int, records: dict[str, dict[str, Any]]) -> None:
    if not distributed.is_main():
        return
    manifest = {"format": FORMAT, "step": step, "world_size": distributed.world_size(), "files": records}
    text = files.dumps(manifest | {"digest": _digest(manifest)})
    failpoint("checkpoint.before_manifest")
    files.write(directory / MANIFEST, [text.encode()])
    failpoint("checkpoint.after_manifest")
    files.sync_directory(directory)
    failpoint("checkpoint.before_rename")
    old = target.with_name(f".old-{target.name}-{secrets.token_hex(4)}")
    replaces = target.exists()
    try:
        if replaces:
            target.rename(old)
            failpoint("checkpoint.between_renames")
        directory.rename(target)
    except Exception:
        if old.exists():
            old.rename(target)
        raise
    failpoint("checkpoint.after_rename")
    files.sync_directory(target.parent)
    failpoint("checkpoint.published")
    shutil.rmtree(old, ignore_errors=True)


def verify(path: Path) -> None:
    """Hash every file, each rank its share. Raises CheckpointError on all ranks if a file is not as it was written."""

    def verify_share() -> None:
        manifest = read_manifest(path)
        names = sorted(manifest["files"])
        unlisted = sorted({file.name for file in path.glob("rank-*")} - set(names))
        if unlisted:
            raise CheckpointError(f"{path}: {unlisted[0]} is not in {MANIFEST}")
        for name in names[distributed.rank() :: distributed.world_size()]:
            _verify_file(path / name, files.Written(**manifest["files"][name]))

    _on_every_rank(verify_share, CheckpointError)


def read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest, checked against its own digest. Raises CheckpointError. Not collective."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        manifest: dict[str, Any] = json.loads(_content(path / MANIFEST, MANIFEST_LIMIT))
        digest = manifest.pop("digest")
        intact = digest == _digest(manifest)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: {MANIFEST} is missing: the checkpoint is incomplete") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {MANIFEST} cannot be read: {describe(error)[:200]}") from error
    if not intact:
        raise CheckpointError(f"{path}: {MANIFEST} does not match its own digest: damaged or edited")
    _check_manifest(path, manifest)
    return manifest


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    version = manifest.get("format")
    if not isinstance(version, int):
        raise CheckpointError(f"{path}: {MANIFEST} has no format")
    if version > FORMAT:
        raise CheckpointError(
            f"{path}: format {version} is from a newer release; this one reads formats up to {FORMAT}"
        )
    for name in ("step", "world_size"):
        if not isinstance(manifest.get(name), int):
            raise CheckpointError(f"{path}: {MANIFEST} has no {name}")
    if (named := _NAME.fullmatch(path.name)) and int(named[1]) != manifest["step"]:
        raise CheckpointError(f"{path}: holds step {manifest['step']}: the directory was renamed")
    records = manifest.get("files")
    if not isinstance(records, dict) or STATE not in records:
        raise CheckpointError(f"{path}: {MANIFEST} lists no {STATE}")
    if len(records) != 2 * manifest["world_size"] + 1:
        raise CheckpointError(f"{path}: {MANIFEST} lists {len(records)} files of {manifest['world_size']} ranks")
    if strange := [name for name in records if _FILE.fullmatch(name) is None]:
        raise CheckpointError(f"{path}: {MANIFEST} lists {strange[0]!r}, which is not a checkpoint's file")
    for name, record in records.items():
        if not isinstance(record, dict) or record.keys() != {"size", "sha256"}:
            raise CheckpointError(f"{path}: {MANIFEST} has no size and sha256 of {name}")


def _content(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes."""
    if _size(path) > limit:
        raise OSError(f"it has more than {limit} bytes")
    return path.read_bytes()


def _size(path: Path) -> int:
    """The size of a regular file in its own directory: a FIFO would block, and a link may lead anywhere."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if path.resolve().parent != path.parent.resolve():
        raise OSError("it is a link out of the checkpoint")
    return status.st_size


def _verify_file(path: Path, expected: files.Written) -> None:
    try:
        size = _size(path)
        if size != expected.size:
            raise CheckpointError(f"{path}: {size} bytes, not {expected.size} as written")
        if files.read(path) != expected:
            raise CheckpointError(f"{path}: the sha256 differs from the one written: the file is damaged")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def load(path: Path, *, verified: bool = False) -> Saved:
    """Open a checkpoint, without reading its tensors yet. Every file is hashed first, unless it is ``verified``."""
    if not verified:
        verify(path)
    manifest = read_manifest(path)
    rank_state = None
    if manifest["world_size"] == distributed.world_size():
        rank_state = _read_json(path / f"rank-{distributed.rank():05d}.json")
    state = _read_json(path / STATE)
    return Saved(path, manifest["step"], manifest["world_size"], state, rank_state, ShardReader(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {describe(error)[:200]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return content


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """The newest whole (verified) checkpoint under ``root``, or None, and a line for each newer one that is damaged.

    Raises CheckpointError when there are checkpoints but all are damaged, so that no run silently starts from zero.
    """
    found = distributed.broadcast(_steps(root) if distributed.is_main() else [])
    warnings: list[str] = []
    for step in reversed(found):
        path = root / f"checkpoint-{step}"
        try:
            verify(path)
            return path, warnings
        except CheckpointError as error:
            warnings.append(f"skipped a damaged checkpoint: {error}")
    if warnings:
        raise CheckpointError(f"{root}: no checkpoint is whole: {'; '.join(warnings)}")
    return None, warnings


def find(resume_from: str, root: Path) -> tuple[Path, list[str]]:
    """The verified checkpoint that checkpoint.resume_from_checkpoint names, and a line for each damaged newer one.

    ``resume_from`` is a checkpoint's path, or a run's directory (or its `checkpoints`) for the newest one in it; `auto`
    means the newest under ``root``. CheckpointError when there is none.
    """
    path = Path(resume_from).expanduser()
    if resume_from != "auto" and path.name.startswith("checkpoint-"):
        verify(path)
        return path, []
    if resume_from != "auto":
        root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, warnings = newest(root)
    if found is None:
        raise CheckpointError(f"checkpoint.resume_from_checkpoint={resume_from}: no checkpoint in {root}")
    return found, warnings


def clean(root: Path) -> None:
    """Clean up after a killed run: restore a checkpoint that was being replaced, remove temporary directories."""

    def sweep() -> None:
        if not distributed.is_main() or not root.is_dir():
            return
        for old in root.glob(".old-checkpoint-*"):
            target = root / old.name.removeprefix(".old-").rpartition("-")[0]
            if target.exists():
                shutil.rmtree(old)
            else:
                old.rename(target)
        for leftover in root.glob(".tmp-*"):
            shutil.rmtree(leftover)
        files.sync_directory(root)

    _on_every_rank(sweep, OSError, f"{root} cannot be cleaned")


def prune(root: Path, limit: int | None, protect: Collection[int] = ()) -> None:
    """Delete all but ``limit`` checkpoints (None: keep all).

    The newest and those of the steps in ``protect`` (the best, the one just saved) stay, then the next newest up to the
    limit. As in Hugging Face's rotation the protected ones count towards the limit, but may exceed it.
    """

    def remove() -> None:
        if limit is None or not distributed.is_main():
            return
        steps = _steps(root)
        ranked = sorted(steps, key=lambda step: (step == steps[-1] or step in protect, step), reverse=True)
        keep = max(limit, len({*protect, *steps[-1:]} & set(steps)))
        for step in sorted(ranked[keep:]):
            # renamed first, so that a kill during the deletion leaves no half checkpoint under its name
            hidden = root / f".tmp-deleted-{step}-{secrets.token_hex(4)}"
            (root / f"checkpoint-{step}").rename(hidden)
            failpoint("checkpoint.in_deletion")
            shutil.rmtree(hidden, ignore_errors=True)

    _on_every_rank(remove, OSError, f"old checkpoints in {root} cannot be removed")


def _steps(root: Path) -> list[int]:
    entries = os.listdir(root) if root.is_dir() else []
    return sorted(int(match[1]) for entry in entries if (match := _NAME.fullmatch(entry)) and (root / entry).is_dir())


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(files.dumps(manifest).encode()).hexdigest()


def _on_every_rank(action: Callable[[], _T], error_type: type[Exception], task: str = "") -> list[_T]:
    """Run ``action`` on every rank; rank 0 gets all results. Raises ``error_type`` on all ranks if it raised on any."""
    results: list[_T] = []
    problem, own = "", None
    try:
        results.append(action())
    except Exception as error:
        own = error
        problem = str(error) if isinstance(error, OSError | CheckpointError) else f"{type(error).__name__}: {error}"
    gathered = distributed.gather((results, problem)) or []
    rank, problem = distributed.broadcast(next(((r, text) for r, (_, text) in enumerate(gathered) if text), (0, "")))
    if problem:
        where = f"rank {rank}: " if task and distributed.world_size() > 1 else ""
        raise error_type(f"{task}: {where}{problem}" if task else problem) from own
    return [result for part, _ in gathered for result in part]
