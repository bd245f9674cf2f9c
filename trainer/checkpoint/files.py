"""Durable files with checksums: on the disk, not only in its cache, when a call returns. And JSON that loads back
exactly: floats to the last bit, nan and infinities included, nothing silently converted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 16 << 20  # bytes written and hashed at a time: few calls, and still in the CPU's cache


@dataclass(frozen=True, slots=True)
class Written:
    """The size and checksum that a file must still have later."""

    size: int
    sha256: str


def write(path: Path, content: Iterable[bytes | memoryview]) -> Written:
    """Write a new file and force it to the disk. The content is hashed on its way there, so that the checksum is that
    of what was meant, not of what arrived."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in content:
            view = memoryview(piece)
            for start in range(0, len(view), CHUNK):
                chunk = view[start : start + CHUNK]
                file.write(chunk)
                digest.update(chunk)
        file.flush()
        os.fsync(file.fileno())
        return Written(file.tell(), digest.hexdigest())


def read(path: Path) -> Written:
    """The file's present size and checksum."""
    with path.open("rb") as file:
        return Written(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def sync_directory(path: Path) -> None:
    """Force a directory's entries (created, renamed and removed names) to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dumps(value: Any, name: str = "") -> str:
    """One line of JSON, the same for equal values; tuples come back as lists.

    Raises TypeError for what JSON cannot represent, naming its key below ``name``: no object becomes its str(), and no
    key 1 becomes "1".
    """
    _check(value, name)
    return json.dumps(value, sort_keys=True)


def _check(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name or 'the top level'}: the key {key!r} is not a string")
            _check(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{name}[{index}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name or 'the top level'}: JSON cannot represent a {kind}")
