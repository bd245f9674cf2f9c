"""`-m`: every trial is composed and checked before the first starts; then each runs in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from ..config.composer import Loader
from ..launch import start
from ..launch.outcome import EXIT_CODES
from ..run.directory import Status
from ..secrets import mask_text
from .trial import Trial
from .trials import compose_trials

__all__ = ["sweep"]

INTERRUPTED = (EXIT_CODES[Status.preempted], EXIT_CODES[Status.stopped])
"""Exit codes of a trial that was asked to stop: the sweep stops with it."""


def sweep(loader: Loader, config_name: str, overrides: Sequence[str]) -> int:
    """Run all trials, one after the other; 0 if every one completed, 1 if any failed.

    Raises:
        ConfigError: with the problems of all trials; nothing has been written then.
    """
    trials = compose_trials(loader, config_name, list(overrides))
    if trials[0].config.cluster is not None:
        return _submit(trials)
    print(f"{len(trials)} trials in {trials[0].directory.parent}", flush=True)
    failed: list[str] = []
    for trial in trials:
        print(f"trial {trial.number}: {mask_text(trial.words)}", flush=True)
        started = time.perf_counter()
        code, end = trial.run()
        print(f"trial {trial.number}: {end} after {time.perf_counter() - started:.1f} s, {trial.directory}", flush=True)
        if code in INTERRUPTED:
            return code
        if code != 0:
            failed.append(f"trial {trial.number} ({mask_text(trial.words)}) {end}: {trial.directory}")
    if failed:
        print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _submit(trials: Sequence[Trial]) -> int:
    """Hand all trials to their cluster."""
    jobs = start.submit([trial.prepare() for trial in trials])
    for trial, job in zip(trials, jobs, strict=True):
        print(f"trial {trial.number}: {mask_text(trial.words)}, job {job}: {trial.directory}")
    return 0
