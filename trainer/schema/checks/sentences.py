"""The sentences that rules report in: `KEY=VALUE needs ...`, `excludes ...`, `is only read with ...`."""

from __future__ import annotations

import re
from typing import Any

from ...errors import Problem

KEY = re.compile(r"\b[a-z_]+(?:\.[a-z_0-9]+)+")
"""A full key inside a sentence."""


def needs(key: str, value: Any, other: str, *, fix: str | None = None, related: tuple[str, ...] = ()) -> Problem:
    """``key`` works only with ``other``; an `other.key=value` is its own fix."""
    return wrong(key, value, f"needs {other}", fix=fix or (other if "=" in other else None), related=related)


def excludes(
    key: str, value: Any, other: str, *, fix: str | None = None, why: str = "", related: tuple[str, ...] = ()
) -> Problem:
    """``key`` and ``other`` cannot both hold."""
    return wrong(key, value, f"excludes {other}{why and ': '}{why}", fix=fix, related=related)


def unread(key: str, value: Any, other: str, *, fix: str | None = None) -> Problem:
    """``key`` is without effect unless ``other`` holds."""
    return wrong(key, value, f"is only read with {other}", fix=fix or other)


def outside(
    key: str, value: Any, what: str, allowed: str, *, fix: str | None = None, related: tuple[str, ...] = ()
) -> Problem:
    """``value`` is not among what is allowed."""
    return Problem(key=key, value=value, what=what, allowed=allowed, fix=fix, related=related)


def wrong(key: str, value: Any, what: str, *, fix: str | None = None, related: tuple[str, ...] = ()) -> Problem:
    """Any other sentence. Keys that it mentions are among those that it looked at."""
    return Problem(key=key, value=value, what=what, fix=fix, related=(*related, *KEY.findall(what)))
