"""`-m`: every trial is composed and checked before the first starts; then each runs in a process of its own."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from ..cli.train import Prepared, checked, config_name, loader_of, refuse_place, submit
from ..config.composer import Composition, Loader
from ..errors import COMMAND_LINE, ConfigError, Problem
from ..run.claim import claim_exactly
from ..run.directory import MANIFEST
from ..schema import Config
from .process import TrialProcess, describe
from .space import trials as trials_of

__all__ = ["sweep"]

INTERRUPTED = (75, 130)
"""Exit codes of a trial that was told to stop: the sweep stops with it."""


@dataclass(slots=True)
class Trial:
    """One combination of the swept values, checked."""

    number: int
    composition: Composition
    config: Config
    overrides: list[str]
    directory: Path
    words: str
    """The overrides that differ from trial to trial."""


def sweep(args: argparse.Namespace, argv: list[str]) -> int:
    """Run all trials, one after the other; 0 if every one ended well, 1 if any failed.

    Raises:
        ConfigError: with the problems of all trials; nothing has been written then.
    """
    trials = plan(loader_of(args), config_name(args), args.overrides)
    root = trials[0].directory.parent
    if trials[0].config.cluster is not None:
        return _submit(trials, argv)
    print(f"{len(trials)} trials in {root}", flush=True)
    failed: list[str] = []
    for trial in trials:
        print(f"trial {trial.number}: {trial.words}", flush=True)
        started = time.perf_counter()
        code = TrialProcess(trial.composition, trial.config, trial.directory, trial.overrides, argv).wait()
        end = describe(code, trial.directory)
        print(f"trial {trial.number}: {end} after {time.perf_counter() - started:.1f} s, {trial.directory}", flush=True)
        if code in INTERRUPTED:
            return code
        if code != 0:
            failed.append(f"trial {trial.number} ({trial.words}) {end}: {trial.directory}")
    if failed:
        print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _submit(trials: list[Trial], argv: list[str]) -> int:
    """Hand all trials to their cluster."""
    runs = []
    for trial in trials:
        directory, resumed = claim_exactly(trial.composition, trial.config, trial.directory)
        trial.config.run.output_dir = str(directory)
        job = trial.composition.cfg.hydra.job
        environment = {str(k): str(v) for k, v in job.env_set.items()}
        runs.append(Prepared(trial.config, directory, trial.overrides, argv, resumed, bool(job.chdir), environment))
    for trial, job_id in zip(trials, submit(runs), strict=True):
        print(f"trial {trial.number}: {trial.words}, job {job_id}: {trial.directory}")
    return 0


def plan(loader: Loader, name: str, overrides: list[str]) -> list[Trial]:
    """Compose and check every trial.

    Raises:
        ConfigError: with the problems of all trials.
    """
    master = loader.compose(name, overrides, RunMode.MULTIRUN)
    parser = OverridesParser.create(config_loader=loader)
    hydra = [o for o in overrides if o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    if "sweeper" not in master.cfg.get("hydra", {}):
        raise ConfigError(master.problems)
    params = [f"{key}={value}" for key, value in (master.cfg.hydra.sweeper.get("params") or {}).items()]
    try:
        parsed = parser.parse_overrides([*params, *(o for o in overrides if o not in hydra)])
        combinations = trials_of(parsed, master.cfg.hydra.sweeper.n_trials)
    except HydraException as error:
        what = " ".join(str(error).split("\n")[0].split())
        raise ConfigError([*master.problems, Problem(key="sweep", origin=COMMAND_LINE, what=what)]) from None
    except ConfigError as error:
        raise ConfigError([*master.problems, *error.problems]) from None
    problems = [p for p in master.problems if p.key.startswith("hydra") or len(combinations) == 0]
    if not any(o.is_sweep_override() for o in parsed):
        what, fix = "-m needs a value to sweep over", "optim.learning_rate=1e-4,3e-4 (or leave out -m)"
        problems.append(Problem(key="-m", origin=COMMAND_LINE, what=what, fix=fix))
    root = None if problems else Path(str(master.cfg.hydra.sweep.dir)).absolute()
    swept = {o.get_key_element() for o in parsed if o.is_sweep_override()}
    trials: list[Trial] = []
    for number, combination in enumerate(combinations):
        composition = loader.compose(name, [*hydra, *combination, f"hydra.job.num={number}"], RunMode.MULTIRUN)
        try:
            config = checked(composition)
            refuse_place(composition, config)
        except ConfigError as error:
            problems += [p for p in error.problems if p not in problems]
            continue
        words = " ".join(word for word in combination if word.partition("=")[0] in swept)
        if root is not None:
            directory = root / str(OmegaConf.select(composition.cfg, "hydra.sweep.subdir"))
            if directory in {trial.directory for trial in trials}:
                what, fix = "is the same for two trials", "hydra.sweep.subdir='${hydra.job.num}'"
                problems.append(Problem(key="hydra.sweep.subdir", value=directory.name, what=what, fix=fix))
            elif (directory / MANIFEST).exists() and config.checkpoint.resume_from_checkpoint is None:
                what, fix = "holds a run already", "checkpoint.resume_from_checkpoint=auto, or another hydra.sweep.dir"
                problems.append(
                    Problem(key="hydra.sweep.dir", value=str(directory), origin=COMMAND_LINE, what=what, fix=fix)
                )
            trials.append(Trial(number, composition, config, combination, directory, words))
    if len({trial.config.cluster is None for trial in trials}) > 1:
        what = "some trials would run here and some on a cluster"
        problems.append(Problem(key="cluster", origin=COMMAND_LINE, what=what, fix="one sweep for each"))
    if problems:
        raise ConfigError(problems)
    return trials
