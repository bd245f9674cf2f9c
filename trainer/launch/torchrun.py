"""One rank of a run whose ranks torchrun or srun started."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import chdir, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..run import directory as run_directory
from ..run.directory import Status
from ..train import interrupts
from . import outcome, rank, start
from .outcome import EXIT_CODES, WRONG_CONFIG, Outcome
from .prepared import Prepared
from .process import die_with_parent
from .ranks import GRACE_S


def is_joined() -> bool:
    """Whether torchrun (or srun, through cluster/srun.py) has started this process as one of several ranks."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join(prepare: Callable[[], Prepared]) -> int:
    """Train as one rank of several, as ``train`` does, and print an error if there is one.

    Returns:
        The exit code; 2 on every rank when the config is wrong.

    Raises:
        ConfigError: on rank 0 alone.
    """
    joined = train(prepare)
    if joined is None:
        return WRONG_CONFIG
    directory, ended = joined
    return EXIT_CODES[ended.status] if ended.lost_peer and not ended.error else outcome.report(directory, ended)


def train(prepare: Callable[[], Prepared], objects: Any = None) -> tuple[Path, Outcome] | None:
    """Train as one rank of several; rank 0 prepares the run (composes, claims a directory) and sends it to the others.

    Args:
        prepare: called on rank 0 alone.
        objects: what a Python caller passed in place of the config's nodes, on every rank.

    Returns:
        The run's directory, and how this rank ended; without an error if another rank has explained the failure.
        None on the other ranks when rank 0 could not prepare the run.

    Raises:
        ConfigError: on rank 0 alone.
    """
    from torch.distributed.rendezvous import rendezvous

    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun leaves its ranks running when it is killed
        die_with_parent()
    # env://: torchrun's own store, or one that rank 0 opens on MASTER_PORT and init_process_group will share
    store, number, _ = next(rendezvous("env://"))
    prepared = _send(store, prepare) if number == 0 else _receive(store)
    if prepared is None:
        return None
    directory = prepared.directory
    os.environ.update(prepared.environment)
    with chdir(directory) if prepared.chdir else nullcontext():
        ended = rank.train(prepared.config, directory, objects)
    if interrupts.last == signal.SIGUSR1:  # the job's time is over, too
        ended = replace(ended, final=True)
    if ended.lost_peer and wait_until_closed(directory):  # the rank that failed first has explained it
        return directory, replace(ended, error=None)
    if ended.error and not ended.wrong_config:
        ended = replace(ended, error=f"{rank.name(number)}: {ended.error}")
    if number == 0 or ended.error:
        outcome.close(directory, ended)
    return directory, ended


def _send(store: Any, prepare: Callable[[], Prepared]) -> Prepared:
    """Rank 0's side: prepare, begin, and send the run to the other ranks, or None if the config is wrong."""
    began: Prepared | None = None
    try:
        prepared = prepare()
        start.begin(prepared)  # the lock is held until this process ends
        began = prepared
    finally:
        store.set("trainer/prepared", pickle.dumps(began))
        if began is None:
            _wait_for_readers(store)
    return prepared


def _receive(store: Any) -> Prepared | None:
    prepared: Prepared | None = pickle.loads(store.get("trainer/prepared"))  # from our own rank 0
    store.add("trainer/read", 1)
    return prepared


def _wait_for_readers(store: Any) -> None:
    """Where rank 0 holds the store, the others must have read it before rank 0 exits."""
    deadline = time.monotonic() + GRACE_S
    while store.add("trainer/read", 0) < int(os.environ["WORLD_SIZE"]) - 1 and time.monotonic() < deadline:
        time.sleep(0.05)


def wait_until_closed(directory: Path) -> bool:
    """Whether the manifest says how the run ended, now or within GRACE_S."""
    deadline = time.monotonic() + GRACE_S
    while run_directory.read(directory).get("status") == Status.running:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
