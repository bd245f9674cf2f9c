"""metrics.csv: the records of metrics.jsonl as a table."""

from __future__ import annotations

import csv
from typing import Any

from ..schema.logging import Csv as CsvNode
from ..state import RunInfo
from .jsonl import read
from .reporter import Reporter


class Csv(Reporter):
    """One row per record, one column per metric. Where a row cannot simply be appended (a new metric, a run that went
    back to a checkpoint), the table is rebuilt from metrics.jsonl and replaced in one rename.
    """

    def __init__(self, node: CsvNode) -> None:
        self._columns: list[str] = []
        self._step = 0

    def start(self, run: RunInfo) -> None:
        self._source, self._path = run.directory / "metrics.jsonl", run.directory / "metrics.csv"
        self._rebuild()

    def log(self, record: dict[str, Any]) -> None:
        if record["step"] < self._step or not record.keys() <= set(self._columns):
            self._file.close()
            self._rebuild()
        else:
            csv.DictWriter(self._file, self._columns, lineterminator="\n").writerow(record)
            self._file.flush()
        self._step = record["step"]

    def finish(self, status: str) -> None:
        self._file.close()

    def _rebuild(self) -> None:
        rows = list(read(self._source)) if self._source.exists() else []
        self._columns = list(dict.fromkeys(["step", "epoch", "time", *(column for row in rows for column in row)]))
        temporary = self._path.with_name(self._path.name + ".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(self._path)
        self._file = self._path.open("a", newline="", encoding="utf-8")
