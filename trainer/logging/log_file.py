"""train.log: where Python's logging and warnings go during a run."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..errors import describe

FILE = "train.log"


@contextmanager
def log_file(directory: Path, *, rank: int, level: str, level_replica: str) -> Iterator[None]:
    """While inside: rank 0 appends everything from ``level`` up to train.log, tracebacks included, and tells warnings
    and errors in one line each on stderr; the other ranks tell stderr what is at ``level_replica`` or worse. Python's
    warnings go to the log alone. Afterwards logging is as it was.
    """
    root, showwarning = logging.getLogger(), warnings.showwarning
    level_here = logging.getLevelName((level if rank == 0 else level_replica).upper())
    terminal = _Terminal(max(level_here, logging.WARNING) if rank == 0 else level_here)
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
    root.setLevel(level_here)
    warnings.showwarning = _log_warning
    try:
        yield
    finally:
        warnings.showwarning = showwarning
        root.setLevel(level_before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def log_failure(error: BaseException, directory: Path) -> None:
    """The traceback to train.log, and one line on stderr that says what went wrong and where the traceback is."""
    logging.getLogger("trainer").error("%s; traceback: %s", describe(error), directory / FILE, exc_info=error)


class _Terminal(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stderr is at the time: the progress bar's proxy puts the line above the bar."""

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
