"""A run's directory: created once, never shared. Holds the config, the overrides and the manifest, secrets masked."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from ..errors import COMMAND_LINE, ConfigError, Problem
from ..schema import Config
from ..schema.drift import Values, covers, decisive
from ..schema.fields import Choice
from ..secrets import mask, mask_overrides

MANIFEST = "manifest.json"
FILES = (MANIFEST, "config.yaml", "overrides.yaml")
LOCK = ".lock"
HASH = "2:"
"""The hash's version. One of before, a bare number, counted free keys too: then the run's config.yaml is hashed."""


class Status(Choice):
    """A run's status, as in manifest.json."""

    queued = "queued"
    """Submitted to a cluster, not started yet."""
    running = "running"
    completed = "completed"
    failed = "failed"
    preempted = "preempted"
    stopped = "stopped"


def create(path: Path, *, exact: bool) -> Path:
    """Create a run's directory and claim it by an exclusive, empty manifest; two runs never get the same one.

    Args:
        path: the directory; parents are created.
        exact: take this path only, which may exist already if it holds no run. Otherwise a taken name gets -1, -2 ...

    Raises:
        FileExistsError: with ``exact``, when the directory holds a run or the path is a file.
    """
    for number in count():
        directory = path if number == 0 else path.with_name(f"{path.name}-{number}")
        try:
            directory.mkdir(parents=True, exist_ok=exact)
            with (directory / MANIFEST).open("x", encoding="utf-8") as file:
                file.write("{}\n")
            return directory
        except FileExistsError:
            if exact:
                raise
    raise AssertionError


def discard(directory: Path) -> None:
    """Undo create and begin for a run that never started; other files in the directory stay."""
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


def hold(directory: Path) -> int:
    """Keep other processes, on any machine, out of the run while this process lives or until the descriptor is closed.

    Returns:
        The lock's file descriptor.

    Raises:
        ConfigError: another process holds it; says which.
    """
    # A POSIX record lock: NFS has it, and forked workers, which may live on for seconds, do not inherit it. Closing any
    # descriptor of the file releases it, so nothing else opens the file.
    file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        time.sleep(0.1)  # the holder writes its name right after it takes the lock
        what = f"holds a run that is running now: {os.pread(file, 999, 0).decode() or 'another process'}"
        os.close(file)
        problem = Problem(key="run.output_dir", value=str(directory), origin=COMMAND_LINE, what=what)
        raise ConfigError([problem]) from None
    except OSError as error:
        print(f"{directory} cannot be locked ({error.strerror}): do not resume it twice at once", file=sys.stderr)
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return file


def begin(directory: Path, *, config: Any, overrides: list[str], argv: list[str], **fields: Any) -> dict[str, Any]:
    """Write config.yaml, overrides.yaml and the manifest (status running), from the process that lives as long as the
    run; the manifest.

    In a directory that already holds a run, that run is resumed: run_id, started_at and the results stay, everything
    else is updated, and an older config is saved as config.1.yaml.
    """
    from .provenance import git, packages  # 10 ms that no look at a config needs

    config = plain(config)
    before = read(directory)
    for name in FILES:
        for left in directory.glob(f"{name}.*.tmp"):  # of a process that was killed
            left.unlink()
    _write_config(directory, _yaml(mask(config)))
    _replace(directory / "overrides.yaml", _yaml(mask_overrides(overrides)))
    manifest = {
        "run_id": before.get("run_id") or uuid.uuid4().hex[:12],
        "config_hash": config_hash(config),
        "git": git(),
        "argv": mask_overrides(argv),
        "host": socket.gethostname(),
        "process": _process(),
        "devices": [],
        "world_size": 1,
        "python": platform.python_version(),
        "packages": dict(packages()),
        "seed": config.get("run", {}).get("seed"),
        "started_at": before.get("started_at") or now(),
        "ended_at": None,
        "status": Status.running,
        "error": None,
        "result": before.get("result") or {},
        "resumed": before.get("resumed") or [],
        "restarts": before.get("restarts") or [],
        **fields,
    }
    _replace(directory / MANIFEST, _json(manifest))
    return read(directory)


def update(directory: Path, **fields: Any) -> None:
    """Change fields of the manifest, atomically."""
    _replace(directory / MANIFEST, _json({**read(directory), **fields}))


def resumed(directory: Path, *, step: int, **fields: Any) -> None:
    """Record that the run resumed from the checkpoint of ``step`` on this machine."""
    entry = {"at": now(), "step": step, "host": socket.gethostname(), **fields}
    update(directory, resumed=[*read(directory).get("resumed", []), entry])


def restarted(directory: Path, error: str, **fields: Any) -> None:
    """Record that failed ranks are restarted, and why."""
    update(directory, restarts=[*read(directory).get("restarts", []), {"at": now(), "error": error, **fields}])


def finish(directory: Path, status: Status, *, error: str | None = None, **fields: Any) -> None:
    """Record how and when the run ended."""
    update(directory, status=status, ended_at=now(), error=error, **fields)


def read(directory: Path) -> dict[str, Any]:
    """The manifest; empty if there is none, or it is not valid JSON."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def newest_unfinished(root: Path, config: Config | Mapping[str, Any], allow_drift: Sequence[str] = ()) -> Path | None:
    """The newest run at most two levels below ``root`` with this config that has not completed and is not running."""
    return newest(root, config, allow_drift, unfinished=True)


def newest(
    root: Path, config: Config | Mapping[str, Any], allow_drift: Sequence[str] = (), *, unfinished: bool = False
) -> Path | None:
    """The newest run at most two levels below ``root`` that trains as this config says, but for ``allow_drift``."""
    found = [(read(path.parent), path.parent) for depth in ("*/", "*/*/") for path in root.glob(depth + MANIFEST)]
    sought = config_hash(config, allow_drift)
    runs = [
        (manifest["started_at"], directory)
        for manifest, directory in found
        if manifest.get("started_at")
        if not unfinished
        or (manifest.get("status") not in (Status.completed, Status.queued) and not is_alive(manifest))
        if _hash_of(directory, manifest, allow_drift) == sought
    ]
    return max(runs, key=lambda run: datetime.fromisoformat(run[0]))[1] if runs else None


def _hash_of(directory: Path, manifest: dict[str, Any], allow_drift: Sequence[str]) -> str | None:
    written = str(manifest.get("config_hash"))
    if written.startswith(HASH) and not allow_drift:
        return written
    config = saved_config(directory)
    return None if config is None else config_hash(config, allow_drift)


def saved_config(directory: Path) -> dict[str, Any] | None:
    """The plain config in a run's config.yaml; None if there is none, or it is not valid."""
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def is_alive(manifest: dict[str, Any]) -> bool:
    """Whether the process that wrote this manifest is still running the run on this host; False on other hosts."""
    process = manifest.get("process") or {}
    return (
        manifest.get("status") == Status.running
        and manifest.get("host") == socket.gethostname()
        and process.get("pid") != os.getpid()
        and process == _process(process.get("pid"))
    )


def now() -> str:
    """The current time, ISO 8601 with the time zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _write_config(directory: Path, content: str) -> None:
    path = directory / "config.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != content:
        saved = next(saved for n in count(1) if not (saved := directory / f"config.{n}.yaml").exists())
        path.rename(saved)
    _replace(path, content)


def _replace(path: Path, content: str) -> None:
    # one name per process: ranks on several machines may fail, and write, at the same time
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str) + "\n"


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def plain(config: Any) -> Any:
    """A config (typed tree or mapping) as plain dicts, lists, strings and numbers."""
    tree = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    return json.loads(json.dumps(tree, default=str))


def decisive_values(config: Config | Mapping[str, Any]) -> Values:
    """What of a config decides the training, by full key, secrets masked: what a checkpoint keeps of it."""
    return decisive(mask(plain(config)))


def config_hash(config: Config | Mapping[str, Any], allow_drift: Sequence[str] = ()) -> str:
    """SHA-256 of what decides the training, without the keys that ``allow_drift`` names."""
    values = {key: value for key, value in decisive_values(config).items() if not covers(allow_drift, key)}
    return HASH + hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _process(pid: int | None = None) -> dict[str, Any]:
    """A process (default: this one) and its start time in ticks since boot, which tells a reused pid apart."""
    pid = pid or os.getpid()
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        started = None
    return {"pid": pid, "started": started}
