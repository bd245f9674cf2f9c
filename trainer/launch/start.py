"""The start of a run, whoever asks for it: check, prepare, begin, train. Imports torch only to train."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import chdir, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import COMMAND_LINE, ConfigError, Problem
from ..run import directory as run_directory
from ..run.claim import claim, claim_exactly
from ..schema import Config
from . import outcome, place, rank, ranks
from .outcome import Outcome
from .prepared import Prepared

if TYPE_CHECKING:
    from ..config.composer import Composition
    from ..train.objects import Objects


def check(composition: Composition) -> Config:
    """The composition's config, if it can run here; what it calls has been imported and bound.

    Raises:
        ConfigError: with every problem.
    """
    from ..build.calls import check_calls

    config, origins = composition.config, composition.origins
    problems = list(composition.problems)
    if config is not None:
        problems += origins.fill(check_calls(config))
        problems += [] if problems else origins.fill(list(place.check(config)))
    if problems or config is None:
        raise ConfigError(problems)
    return config


def prepare(
    composition: Composition, config: Config, overrides: Sequence[str], directory: Path | None = None
) -> Prepared:
    """Claim the run's directory.

    Args:
        composition: where the config comes from.
        config: what `check` returned.
        overrides: the run's own, for overrides.yaml.
        directory: the run's. Default: what the config and checkpoint.resume_from_checkpoint say.

    Raises:
        ConfigError: the directory holds another run, or cannot be made; nothing has been written then.
    """
    path, resumed = claim(composition, config) if directory is None else claim_exactly(composition, config, directory)
    config.run.output_dir = str(path)
    job = composition.cfg.hydra.job
    environment = {str(name): str(value) for name, value in job.env_set.items()}
    return Prepared(config, path, list(overrides), list(sys.argv), resumed, bool(job.chdir), environment)


def begin(prepared: Prepared) -> int:
    """Hold the directory for this process and open the manifest; the lock's descriptor, to close when the run ends.

    Raises:
        ConfigError: another process runs it now.
    """
    os.environ.update(prepared.environment)
    lock = run_directory.hold(prepared.directory)
    given: dict[str, Any] = {"config": prepared.config, "overrides": prepared.overrides, "argv": prepared.argv}
    run_directory.begin(prepared.directory, **given, **prepared.notes)
    if prepared.requeued:
        ranks.resume_in_place(prepared.config)
    return lock


def run(prepared: Prepared, objects: Objects | None = None, *, own_process: bool = False) -> Outcome:
    """Begin the run's directory, train, close the manifest. A failure is returned, not raised; nothing is printed.

    One rank trains in this process, several in a process each.

    Args:
        prepared: the run.
        objects: what a Python caller passed in place of the config's nodes; sent to other processes by cloudpickle.
        own_process: train in another process even if there is one rank, as with launch.max_restarts.

    Raises:
        ConfigError: another process runs it now.
    """
    config, directory = prepared.config, prepared.directory
    lock = begin(prepared)
    try:
        with chdir(directory) if prepared.chdir else nullcontext():
            world = ranks.world_size(config)
            if world > 1 or own_process or config.launch.max_restarts:
                ended = ranks.train(config, directory, world, objects)
            else:
                ended = rank.train(config, directory, objects)
        outcome.close(directory, ended)
    finally:
        os.close(lock)
    return ended


def start(prepared: Prepared) -> int:
    """Run, and print the error if there is one; the exit code.

    Raises:
        ConfigError: another process runs it now.
    """
    return outcome.report(prepared.directory, run(prepared))


def submit(runs: Sequence[Prepared]) -> list[str]:
    """Hand runs to their cluster; the jobs' ids.

    Raises:
        ConfigError: the cluster takes none of them; what had been written is removed.
    """
    from ..build.build import build

    for one in runs:
        given: dict[str, Any] = {"config": one.config, "overrides": one.overrides, "argv": one.argv}
        started_at = run_directory.read(one.directory).get("started_at")
        run_directory.begin(one.directory, **given, status=run_directory.Status.queued, started_at=started_at)
    try:
        jobs: list[str] = build(runs[0].config.cluster).submit(list(runs))
    except RuntimeError as error:
        for one in runs:
            if not one.resumed:
                run_directory.discard(one.directory)
        raise ConfigError([Problem(key="cluster", origin=COMMAND_LINE, what=" ".join(str(error).split()))]) from None
    return jobs
