"""The trials of a sweep: all combinations of listed values, and points of intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, ValueType

from ..config import hydra
from ..errors import COMMAND_LINE, ConfigError, Problem

N_TRIALS = 20
"""As hydra-optuna-sweeper's n_trials and the Trainer's hyperparameter_search."""

MAX_TRIALS = 1000
"""Every trial is composed and checked before the first starts, at about 0.1 s each."""


def trials(overrides: Sequence[Override], n_trials: int | None) -> list[list[str]]:
    """The overrides of each trial.

    Lists (`a,b`, `range()`, `choice()`, `glob()`) make all their combinations, in Hydra's order. With an `interval()`
    there are ``n_trials`` (default 20) trials: the combinations in turn, each at a point of its own. The points are a
    Halton sequence (Halton 1960): evenly spread, the same every time, and a longer one begins with the shorter.
    `tag(log, interval(a, b))` spreads them by ratio, `int(interval(a, b))` over whole numbers, both ends among them.

    Raises:
        ConfigError: an override lists no value, or one twice; an interval is empty; there are more than MAX_TRIALS
            trials; or n_trials does not fit.
    """
    check_size(overrides, n_trials)
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


def check_size(overrides: Sequence[Override], n_trials: int | None) -> None:
    """Refuse sweeps that are empty or too large, before any list of values is expanded.

    Raises:
        ConfigError: with every such problem.
    """
    swept = [o for o in overrides if o.is_sweep_override() and o.value_type is not ValueType.INTERVAL_SWEEP]
    counts = {str(o.input_line): _count(o) for o in swept}
    problems = [_said(line, "lists no value to sweep over") for line, count in counts.items() if count == 0]
    size = max(math.prod(counts.values()), n_trials or 0)
    if size > MAX_TRIALS:
        what, fix = f"makes {size:,} trials; a sweep may have {MAX_TRIALS:,}", "fewer values, or several sweeps"
        problems.append(_said(" ".join([line for line, n in counts.items() if n > 1] or ["-m"]), what, fix))
    elif not problems:
        problems += [_said(str(o.input_line), f"lists {twice} twice") for o in swept if (twice := _duplicate(o))]
    if problems:
        raise ConfigError(problems)


def _said(line: str, what: str, fix: str | None = None) -> Problem:
    return Problem(key=line, origin=COMMAND_LINE, what=what, fix=fix)


def _count(override: Override) -> int:
    """How many values an override lists, without listing them."""
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        assert sweep.start is not None
        assert sweep.stop is not None
        return max(0, math.ceil((sweep.stop - sweep.start) / sweep.step)) if sweep.step else 0
    if isinstance(sweep, ChoiceSweep):
        return len(sweep.list)
    return sum(1 for _ in override.sweep_string_iterator())


def _duplicate(override: Override) -> str | None:
    seen: set[str] = set()
    for text in override.sweep_string_iterator():
        if text in seen:
            return text
        seen.add(text)
    return None


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
