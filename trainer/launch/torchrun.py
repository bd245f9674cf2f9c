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
from .outcome import EXIT_CODES, WRONG_CONFIG
from .prepared import Prepared
from .process import die_with_parent
from .ranks import GRACE_S


def join(prepare: Callable[[], Prepared]) -> int:
    """Train as one rank of several; rank 0 prepares the run (composes, claims a directory) and sends it to the others.

    Returns:
        The exit code; 2 on every rank when the config is wrong.

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
        return WRONG_CONFIG
    directory = prepared.directory
    os.environ.update(prepared.environment)
    with chdir(directory) if prepared.chdir else nullcontext():
        ended = rank.train(prepared.config, directory)
    if interrupts.last == signal.SIGUSR1:  # the job's time is over, too
        ended = replace(ended, final=True)
    if ended.lost_peer and _is_explained(directory):
        return EXIT_CODES[Status.failed]
    if ended.error:
        ended = replace(ended, error=f"{rank.name(number)}: {ended.error}")
    if number == 0 or ended.error:
        outcome.close(directory, ended)
    return outcome.report(directory, ended)


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


def _is_explained(directory: Path) -> bool:
    """Whether the rank that failed first has closed the manifest with its error, or does so within GRACE_S."""
    deadline = time.monotonic() + GRACE_S
    while run_directory.read(directory).get("status") == Status.running:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
