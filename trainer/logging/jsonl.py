"""metrics.jsonl: the run's own record of its metrics. Always written, on rank 0; no reporter, so never switched off."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends one JSON object per log or evaluation, flushed at once: a kill -9 tears at most the last line, and
    opening the file again drops that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            _rewrite(path, list(read(path)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. Floats keep every digit; nan and inf stand as NaN and Infinity, never hidden."""
        self._file.write(json.dumps(record, default=_number) + "\n")
        self._file.flush()

    def truncate(self, step: int) -> None:
        """Before going on from the checkpoint of ``step``: drop what came after it, and the old end's summary, so that
        each step stands here once. 0 (a run that starts afresh) drops everything.
        """
        kept = [r for r in read(self.path) if 0 < step >= r.get("step", 0) and "train_runtime" not in r]
        self._file.close()
        _rewrite(self.path, kept)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl, without a torn last line."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:  # a file system that lost a block in a power cut: zeros, half a character
            continue
        if isinstance(record, dict):
            yield record


def _rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace the file's content in one rename, unless it is that already."""
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    if content == path.read_bytes():
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _number(value: Any) -> Any:
    """A tensor's or numpy scalar's Python number."""
    return value.item()
