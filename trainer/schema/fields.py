"""Fields that carry their bounds as data, so that checks/bounds.py can report every violation at once."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Any


class Choice(StrEnum):
    """A closed set of words. Members compare, print and serialise as their own name (OmegaConf 2.3 has no Literal)."""


def number(
    default: Any,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> Any:
    """A finite number within bounds: ``minimum <= x <= maximum``, ``above < x < below``; None is left to the type.

    nan and infinities are always refused. The bounds stand in the field's metadata and are read by checks/bounds.py.
    """
    bounds = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    return field(default=default, metadata={k: v for k, v in bounds.items() if v is not None})
