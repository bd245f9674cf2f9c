"""metrics.jsonl: the run's own record of its metrics, always written by rank 0. It is not a reporter, which could be
switched off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends one JSON object per log or evaluation and flushes it: a kill -9 damages at most the last line, which is
    dropped when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            _rewrite(path, list(read(path)))
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. Floats keep every digit; nan and inf are written as NaN and Infinity."""
        self._file.write(json.dumps(record, default=_number) + "\n")
        self._file.flush()

    def truncate(self, step: int) -> None:
        """Drop the records after ``step`` and the previous summary, so that a run that resumes from the checkpoint of
        ``step`` records each step once. 0 (a fresh start) drops everything.
        """
        records = [r for r in read(self.path) if 0 < step >= r.get("step", 0) and "train_runtime" not in r]
        self._file.close()
        _rewrite(self.path, records)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl, without an incomplete last line."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:  # zeros or half a character: a file system that lost a block in a power failure
            continue
        if isinstance(record, dict):
            yield record


def _rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace the file's content in one rename, unless it is the same already."""
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
