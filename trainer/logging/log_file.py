"""train.log: where Python's logging and warnings go during a run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

FILE = "train.log"


@contextmanager
def log_file(directory: Path, *, rank: int, level: str, level_replica: str) -> Iterator[None]:
    """Set up logging for a run, and restore it afterwards.

    Rank 0 appends everything from ``level`` up, with tracebacks, to train.log, and prints warnings and errors as one
    line each on stderr. Other ranks print what is at ``level_replica`` or above on stderr. Python's warnings go to
    train.log only.
    """
    root, showwarning = logging.getLogger(), warnings.showwarning
    level_of_rank = logging.getLevelName((level if rank == 0 else level_replica).upper())
    terminal = _Terminal(max(level_of_rank, logging.WARNING) if rank == 0 else level_of_rank)
    terminal.setFormatter(
        _OneLine("%(levelname)s: %(message)s" if rank == 0 else f"[rank {rank}] %(levelname)s: %(message)s")
    )
    terminal.addFilter(lambda record: record.name != "py.warnings")
    handlers: list[logging.Handler] = [terminal]
    if rank == 0:
        file = logging.FileHandler(directory / FILE, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    level_before = root.level
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level_of_rank)
    warnings.showwarning = _log_warning
    try:
        yield
    finally:
        warnings.showwarning = showwarning
        root.setLevel(level_before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stderr, so that the progress bar's proxy can print the line above the bar."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.setLevel(level)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None: ...


class _OneLine(logging.Formatter):
    """A record on one line; its traceback stays in train.log."""

    def format(self, record: logging.LogRecord) -> str:
        plain = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None, "stack_info": None})
        return " ".join(super().format(plain).split())


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)
