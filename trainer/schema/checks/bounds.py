"""Bounds that fields carry as metadata, intervals, and values of another kind than their field's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from ...errors import Problem
from ..checkpoint import SaveStrategy
from ..config import Config
from ..evaluation import IntervalStrategy
from .sentences import outside, wrong

MAX_INTEGER = 2**63 - 1
"""What a tensor and a step counter hold."""


def misplaced(node: Any, key: str = "") -> Iterator[Problem]:
    """Whole sections where a value belongs: OmegaConf lets an interpolation put them there."""
    for f in fields(node):
        value, name = getattr(node, f.name), f"{key}.{f.name}" if key else f.name
        declared = str(f.type)
        if is_dataclass(value) and not isinstance(value, type):
            if declared in ("Any", type(value).__name__):
                yield from misplaced(value, name)
            else:
                yield wrong(name, ..., f"refers to a whole {type(value).__name__}, not to a value")
        elif isinstance(value, dict | list) and type(value).__name__ not in declared and "Any" not in declared:
            yield wrong(name, value, "refers to a mapping or list, not to a value")
        elif isinstance(value, str) and declared.startswith(("dict[", "list[")):
            yield wrong(name, value, "refers to a text, not to a mapping or list")


def bounds(config: Config) -> Iterator[Problem]:
    """Each number lies within its field's bounds; nan and infinities are refused everywhere."""
    yield from out_of_bounds(config)


def out_of_bounds(node: Any, key: str = "") -> Iterator[Problem]:
    """Every number at any depth of ``node``, which stands at ``key``, that is outside its bounds."""
    if is_dataclass(node) and not isinstance(node, type):
        for f in fields(node):
            name = f"{key}.{f.name}" if key else f.name
            value = getattr(node, f.name)
            if isinstance(value, int | float) and (problem := _compare(name, value, f.metadata)):
                yield problem
            elif not isinstance(value, int):
                yield from out_of_bounds(value, name)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from out_of_bounds(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from out_of_bounds(value, f"{key}.{i}")
    elif isinstance(node, int) and abs(node) > MAX_INTEGER:
        yield outside(key, node, "is out of range", f"at most {MAX_INTEGER}")
    elif isinstance(node, float) and not math.isfinite(node):
        yield wrong(key, node, "is not a finite number")


def is_finite(value: float) -> bool:
    """math.isfinite, for whole numbers of any length too."""
    return isinstance(value, int) or math.isfinite(value)


def _compare(key: str, value: float, limits: Any) -> Problem | None:
    if isinstance(value, int) and "maximum" not in limits and abs(value) > MAX_INTEGER:
        return outside(key, value, "is out of range", f"at most {MAX_INTEGER}")
    ok = (
        is_finite(value)
        and value >= limits.get("minimum", -math.inf)
        and value > limits.get("above", -math.inf)
        and value <= limits.get("maximum", math.inf)
        and value < limits.get("below", math.inf)
    )
    if ok or (not limits and isinstance(value, float)):  # of a float without bounds, out_of_bounds says it
        return None
    words = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    allowed = " and ".join(f"{words[k]} {limit}" for k, limit in limits.items() if k in words)
    return outside(key, value, "is out of range" if is_finite(value) else "is not a finite number", allowed)


def intervals(config: Config) -> Iterator[Problem]:
    """Intervals are whole numbers of steps, or a share of them below 1."""
    logging, evaluation, checkpoint = config.logging, config.evaluation, config.checkpoint
    for key, value, is_read in (
        ("logging.logging_steps", logging.logging_steps, logging.logging_strategy == IntervalStrategy.steps),
        ("evaluation.eval_steps", evaluation.eval_steps, evaluation.eval_strategy == IntervalStrategy.steps),
        ("checkpoint.save_steps", checkpoint.save_steps, checkpoint.save_strategy == SaveStrategy.steps),
    ):
        if is_read and value is not None and is_finite(value) and value >= 1 and value != int(value):
            what = "is neither a whole number of steps nor a share below 1"
            yield wrong(key, value, what, fix=f"{key}={int(value)}")


RULES = (bounds, intervals)
