"""What can be wrong: problems of a configuration as data, one line each, and the exceptions of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .secrets import MASK, is_secret, mask_text

COMMAND_LINE = "command line"
DEFAULT = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong. ``str`` gives CONTRACT.md's line, secrets masked."""

    key: str
    """Full dotted key, or the override or file that could not be read."""
    what: str
    """What is wrong, without the key and the value."""
    value: Any = ...
    """The offending value; `...` leaves it out."""
    origin: str | None = None
    """`command line`, `FILE:LINE` or `default`; None is filled in from the composition's origins."""
    allowed: str | None = None
    suggestion: str | None = None
    """For `did you mean`."""
    fix: str | None = None
    """An override (or a command) to paste."""
    related: tuple[str, ...] = ()
    """Other keys that the rule looked at: the problem is withheld while one of them is itself wrong."""

    def __str__(self) -> str:
        head = self.key if self.value is ... else f"{self.key}={show(self.value)}"
        parts = [f"{head} ({self.origin or DEFAULT}): {self.what}"]
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        if self.suggestion:
            parts.append(f"did you mean {self.suggestion}")
        if self.fix:
            parts.append(f"fix: {self.fix}")
        return self._masked(" ".join("; ".join(parts).split()))

    def _masked(self, line: str) -> str:
        meant = (self.suggestion or "").partition("=")[0]  # a misspelt hub_token is a secret too
        if not is_secret(self.key.partition("=")[0]) and not is_secret(meant):
            return mask_text(line)
        value = "" if self.value in (..., None) or isinstance(self.value, bool) else show(self.value)
        return mask_text(line.replace(value, MASK) if value else line)


class ConfigError(Exception):
    """A configuration that cannot run, with every problem found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """The problems' lines, each once, in the order found."""
        return list(dict.fromkeys(map(str, self.problems)))


def show(value: Any) -> str:
    """A value as one would type it on the command line, shortened to 80 characters."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict):
        text = "{" + ",".join(f"{k}:{show(v)}" for k, v in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ",".join(map(show, value)) + "]"
    else:
        text = str(value)
    text = text.encode("ascii", "backslashreplace").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else text[:77] + "..."


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like ``word``, if any is close enough to be what was meant."""
    from difflib import get_close_matches

    names = {c.lower(): c for c in candidates}
    word = word.lower()
    if found := get_close_matches(word, names, n=1, cutoff=CUTOFF):
        return names[found[0]]
    begun = [name for name in names if len(word) >= 3 and name.startswith(word)]
    return names[min(begun, key=len)] if begun else None


CUTOFF = 0.7
"""At 0.6, hidden_size passes for vocab_size."""


class CheckpointError(Exception):
    """A checkpoint is missing, damaged or does not hold what is asked of it; the message is one line."""


class NotFinite(RuntimeError):
    """A loss or a gradient is nan or infinite."""


class ReporterError(RuntimeError):
    """A reporter could not be built or started: the run must not begin."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(
            f"logging.reporters.{name} cannot start: {describe(error)}; fix that, or leave {name} out of `logging=`"
        )


def describe(error: BaseException) -> str:
    """An exception on one line: type, message, and the notes that say where it happened."""
    text = " ".join(str(error).split())
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__) + notes
