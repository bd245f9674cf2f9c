"""Files that are on the disk, not only in its cache, when the call returns; their sizes and checksums. JSON that comes
back as it went: floats to the last bit, nan and infinities included, nothing silently converted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 16 << 20  # bytes written and hashed at a time: while hot in the cache, and few calls


@dataclass(frozen=True, slots=True)
class Written:
    """What a file must be found to be later."""

    size: int
    sha256: str


def write(path: Path, content: Iterable[bytes | memoryview]) -> Written:
    """Write a new file and force it to the disk; hashed on the way, so what is recorded is what was meant."""
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
    """What the file is now."""
    with path.open("rb") as file:
        return Written(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def sync_directory(path: Path) -> None:
    """Force a directory's entries (names created, renamed, removed) to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dumps(value: Any, name: str = "") -> str:
    """One line of JSON, the same for equal values. Tuples come back as lists; what JSON cannot hold is a TypeError
    that names the key (``name`` is what the whole is called): no str() of an object, no 1 that comes back as "1".
    """
    _check(value, name)
    return json.dumps(value, sort_keys=True)


def _check(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name or 'the top level'}: the key {key!r} is not a string, as JSON's are")
            _check(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{name}[{index}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name or 'the top level'}: JSON cannot hold a {kind}")
