"""All trials of a sweep, composed and checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from ..config.composer import Composition, Loader
from ..errors import COMMAND_LINE, ConfigError, Problem
from ..launch import start
from ..run.directory import MANIFEST
from .space import trials as combinations_of
from .trial import Trial


def compose_trials(loader: Loader, config_name: str, overrides: list[str]) -> list[Trial]:
    """Compose and check every trial.

    Raises:
        ConfigError: with the problems of all trials.
    """
    master = loader.compose(config_name, overrides, RunMode.MULTIRUN)
    hydra = [o for o in overrides if o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    parsed, combinations = _combinations(loader, master, [o for o in overrides if o not in hydra])
    problems = [p for p in master.problems if p.key.startswith("hydra") or len(combinations) == 0]
    swept = {o.get_key_element() for o in parsed if o.is_sweep_override()}
    root = None if problems else Path(str(master.cfg.hydra.sweep.dir)).absolute()
    trials: list[Trial] = []
    for number, combination in enumerate(combinations):
        composition = loader.compose(config_name, [*hydra, *combination, f"hydra.job.num={number}"], RunMode.MULTIRUN)
        try:
            config = start.check(composition)
        except ConfigError as error:
            problems += [p for p in error.problems if p not in problems]
            continue
        words = " ".join(word for word in combination if word.partition("=")[0] in swept or not swept)
        if root is not None:
            directory = root / str(OmegaConf.select(composition.cfg, "hydra.sweep.subdir"))
            trials.append(Trial(number, composition, config, combination, directory, words))
    problems += _check(trials)
    if problems:
        raise ConfigError(problems)
    return trials


def _combinations(
    loader: Loader, master: Composition, overrides: Sequence[str]
) -> tuple[list[Override], list[list[str]]]:
    """The overrides, hydra.sweeper.params among them, and those of each trial."""
    if "sweeper" not in master.cfg.get("hydra", {}):
        raise ConfigError(master.problems)
    params = [f"{key}={value}" for key, value in (master.cfg.hydra.sweeper.get("params") or {}).items()]
    try:
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *overrides])
        return parsed, combinations_of(parsed, master.cfg.hydra.sweeper.n_trials)
    except HydraException as error:
        if master.problems:  # it says so already
            raise ConfigError(master.problems) from None
        what = " ".join(str(error).split("\n")[0].split())
        raise ConfigError([*master.problems, Problem(key="sweep", origin=COMMAND_LINE, what=what)]) from None
    except ConfigError as error:
        raise ConfigError([*master.problems, *error.problems]) from None


def _check(trials: Sequence[Trial]) -> Iterator[Problem]:
    """Whether every trial has a directory of its own, and all run in the same place."""
    directories: set[Path] = set()
    for trial in trials:
        directory = trial.directory
        if directory in directories:
            what, fix = "is the same for two trials", "hydra.sweep.subdir='${hydra.job.num}'"
            yield Problem(key="hydra.sweep.subdir", value=directory.name, what=what, fix=fix)
        elif (directory / MANIFEST).exists() and trial.config.checkpoint.resume_from_checkpoint is None:
            what, fix = "holds a run already", "checkpoint.resume_from_checkpoint=auto, or another hydra.sweep.dir"
            yield Problem(key="hydra.sweep.dir", value=str(directory), origin=COMMAND_LINE, what=what, fix=fix)
        directories.add(directory)
    if len({trial.config.cluster is None for trial in trials}) > 1:
        what = "some trials would run here and some on a cluster"
        yield Problem(key="cluster", origin=COMMAND_LINE, what=what, fix="one sweep for each")
