"""Which trials a sweep has."""

from __future__ import annotations

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from trainer.config.composer import CONFIG_NAME, make_loader
from trainer.errors import ConfigError
from trainer.sweep.space import N_TRIALS, trials
from trainer.sweep.trials import compose_trials


def of(*overrides: str, n_trials: int | None = None) -> list[list[str]]:
    return trials(OverridesParser.create().parse_overrides(list(overrides)), n_trials)


def numbers(overrides: list[list[str]], at: int) -> list[float]:
    return [float(trial[at].partition("=")[2]) for trial in overrides]


def test_lists_make_all_combinations() -> None:
    assert of("a=1,2", "b=range(3)", "c=5") == [[f"a={a}", f"b={b}", "c=5"] for a in (1, 2) for b in (0, 1, 2)]


def test_points_are_spread_evenly_and_the_same_every_time() -> None:
    """Of 20 points one lies in most twentieths of each axis; random ones leave seven of them empty."""
    found = of("x=interval(-1,3)", "y=interval(0,1)", "z=5")
    assert len(found) == N_TRIALS
    assert found == of("x=interval(-1,3)", "y=interval(0,1)", "z=5", n_trials=25)[:N_TRIALS]
    x, y = numbers(found, 1), numbers(found, 2)
    assert all(trial[0] == "z=5" for trial in found)
    assert all(-1 < value < 3 for value in x)
    assert len({math.floor((value + 1) * 5) for value in x}) >= 16
    assert len({math.floor(value * 20) for value in y}) >= 16
    pairs = {(math.floor(value + 1), math.floor(other * 4)) for value, other in zip(x, y, strict=True)}
    assert len(pairs) >= 14  # of 16 squares


def test_ratios_and_whole_numbers() -> None:
    rates = numbers(of("x=tag(log,interval(1e-5,1e-2))", n_trials=30), 0)
    assert all(abs(sum(10.0**k <= rate < 10.0 ** (k + 1) for rate in rates) - 10) <= 1 for k in (-5, -4, -3))
    layers = numbers(of("x=int(interval(1,4))", n_trials=40), 0)
    assert [layers.count(n) for n in (1, 2, 3, 4)] == [10, 10, 10, 10]
    assert sorted(set(numbers(of("x=int(tag(log,interval(1,8)))", n_trials=50), 0))) == list(range(1, 9))


def test_combinations_take_turns() -> None:
    found = of("a=u,v,w", "x=interval(0,1)", n_trials=6)
    assert [trial[0] for trial in found] == ["a=u", "a=v", "a=w"] * 2
    assert len(set(numbers(found, 1))) == 6


@pytest.mark.parametrize(
    ("overrides", "n_trials", "line"),
    [
        (
            ["x=interval(2,1)"],
            None,
            "x=interval(2,1) (command line): an interval needs a start below its end, both finite",
        ),
        (["x=interval(0,inf)"], None, "needs a start below its end"),
        (["x=tag(log,interval(0,1))"], None, "ratios need an interval above 0"),
        (["x=tag(lgo,interval(1,2))"], None, "there is no tag lgo"),
        (["a=1,2,3", "x=interval(0,1)"], 2, "hydra.sweeper.n_trials=2 (command line): the listed values alone make 3"),
        (["a=1,2,3"], 5, "hydra.sweeper.n_trials=5 (command line): has no effect without an interval"),
    ],
)
def test_wrong(overrides: list[str], n_trials: int | None, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(*overrides, n_trials=n_trials)
    assert [line in text for text in caught.value.lines()] == [True]


def test_each_point_is_checked_before_the_first_trial() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_trials(make_loader(), CONFIG_NAME, ["optim.learning_rate=interval(-1,1)", "hydra.sweeper.n_trials=4"])
    assert [line.partition(" (")[0] for line in caught.value.lines()] == [
        "optim.learning_rate=-0.5",
        "optim.learning_rate=-0.75",
    ]
