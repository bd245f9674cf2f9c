"""What a field carries as data: its bounds, which checks/bounds.py reads, and what a resumed run may change, which
drift.py reads."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import Any

MAX_SEED = 2**64 - 1
"""torch.manual_seed's largest."""


class Choice(StrEnum):
    """A closed set of words. Members compare, print and serialise as their own name (OmegaConf 2.3 has no Literal)."""


class Drift(Choice):
    """What happens when a run resumes with another value than its checkpoint was written with."""

    free = "free"
    """It is taken: the value does not decide what is trained."""
    decision = "decision"
    """It is refused until checkpoint.allow_drift names the key, and then takes effect."""
    incompatible = "incompatible"
    """It is refused: the checkpoint's state does not fit."""


FREE = {"drift": Drift.free}
INCOMPATIBLE = {"drift": Drift.incompatible}
"""Metadata of a field. Without it, a field has its section's in config.py."""


def number(
    default: Any,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    drift: Drift | None = None,
) -> Any:
    """A finite number within bounds: ``minimum <= x <= maximum``, ``above < x < below``; None is left to the type.

    nan and infinities are always refused. The bounds stand in the field's metadata and are read by checks/bounds.py.
    """
    bounds = {"minimum": minimum, "above": above, "maximum": maximum, "below": below}
    metadata: dict[str, Any] = {k: v for k, v in {**bounds, "drift": drift}.items() if v is not None}
    return field(default=default, metadata=metadata)


def secret(variable: str) -> Any:
    """Text that grants access, None by default. ``variable``: the environment variable to set instead, since a command
    line stays in the shell's history and in the machine's list of processes."""
    return field(default=None, metadata={"secret": variable})
