"""The trials of a sweep: all combinations of listed values, and points of intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hydra.core.override_parser.types import IntervalSweep, Override, ValueType

from ..config import hydra
from ..errors import COMMAND_LINE, ConfigError, Problem

N_TRIALS = 20
"""As hydra-optuna-sweeper's n_trials and the Trainer's hyperparameter_search."""


def trials(overrides: Sequence[Override], n_trials: int | None) -> list[list[str]]:
    """The overrides of each trial.

    Lists (`a,b`, `range()`, `choice()`, `glob()`) make all their combinations, in Hydra's order. With an `interval()`
    there are ``n_trials`` (default 20) trials: the combinations in turn, each at a point of its own. The points are a
    Halton sequence (Halton 1960): evenly spread, the same every time, and a longer one begins with the shorter.
    `tag(log, interval(a, b))` spreads them by ratio, `int(interval(a, b))` over whole numbers, both ends among them.

    Raises:
        ConfigError: an interval is empty, or n_trials does not fit.
    """
    intervals = {o.get_key_element(): o for o in overrides if o.value_type is ValueType.INTERVAL_SWEEP}
    combinations = hydra.combinations([o for o in overrides if o not in intervals.values()])
    problems = [problem for override in intervals.values() if (problem := _wrong(override))]
    key = "hydra.sweeper.n_trials"
    if intervals and n_trials is not None and 1 <= n_trials < len(combinations):
        what, fix = f"the listed values alone make {len(combinations)} combinations", f"{key}={len(combinations)}"
        problems.append(Problem(key=key, value=n_trials, origin=COMMAND_LINE, what=what, fix=fix))
    if n_trials is not None and not intervals:
        what = "has no effect without an interval: all listed values are tried"
        problems.append(Problem(key=key, value=n_trials, origin=COMMAND_LINE, what=what, fix=f"{key}=null"))
    if problems:
        raise ConfigError(problems)
    if not intervals:
        return combinations
    bases = _primes(len(intervals))
    return [
        combinations[i % len(combinations)]
        + [f"{name}={_value(o, _halton(i + 1, b))}" for (name, o), b in zip(intervals.items(), bases, strict=True)]
        for i in range(max(N_TRIALS if n_trials is None else n_trials, len(combinations)))
    ]


def _wrong(override: Override) -> Problem | None:
    (start, end), tags, line = _ends(override), _sweep(override).tags, str(override.input_line)
    what = None
    if not (math.isfinite(start) and math.isfinite(end) and start < end):
        what = "an interval needs a start below its end, both finite"
    elif "log" in tags and start <= 0:
        what = "ratios need an interval above 0"
    elif unknown := tags - {"log"}:
        what = f"there is no tag {', '.join(sorted(map(str, unknown)))}"
    return Problem(key=line, origin=COMMAND_LINE, what=what, allowed="tag(log, interval(1e-5, 1e-2))") if what else None


def _sweep(override: Override) -> IntervalSweep:
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep)
    return sweep


def _ends(override: Override) -> tuple[float, float]:
    sweep = _sweep(override)
    assert sweep.start is not None
    assert sweep.end is not None
    return float(sweep.start), float(sweep.end)


def _value(override: Override, share: float) -> float | int:
    """The interval's number at ``share`` (0 to 1) of the way, to six digits."""
    sweep, (start, end) = _sweep(override), _ends(override)
    whole = isinstance(sweep.start, int)
    end += whole  # every whole number gets an equally wide range
    value = start * (end / start) ** share if "log" in sweep.tags else start + (end - start) * share
    return int(value) if whole else float(f"{value:.6g}")


def _halton(i: int, base: int) -> float:
    """Term ``i`` of the sequence, in [0, 1): the digits of ``i`` mirrored at the point."""
    result, unit = 0.0, 1.0
    while i:
        i, digit = divmod(i, base)
        unit /= base
        result += digit * unit
    return result


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % prime for prime in found):
            found.append(number)
        number += 1
    return found
