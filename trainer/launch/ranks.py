"""Several ranks on this machine: started together, restarted together, ended together.

torch's elastic agent (torch.distributed.launcher) is not used: it flattens every exit code to 1 (75 means saved, 2 a
wrong config), waits 30 s before it kills ranks that hang, leaves ranks running when it is killed, and blames the rank
that exits first, which is one whose connection closed, not the one that broke it.
"""

from __future__ import annotations

import logging
import os
import pickle
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..run import directory as run_directory
from ..run.directory import Status
from ..schema import Config
from ..schema.parallel import Single
from ..train import interrupts
from . import rank
from .outcome import Outcome, append_to_log, first_cause
from .process import Process, ProcessDied, forward_signals, signals_held

if TYPE_CHECKING:
    from ..train.objects import Objects

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long the other ranks may take to end by themselves after one has failed."""


def world_size(config: Config) -> int:
    """Number of ranks: launch.nproc_per_node, else one per visible GPU, else one.

    Always one with parallel=single, and with an optimizer that updates inside backward.
    """
    if isinstance(config.parallel, Single) or getattr(config.optim, "layerwise", False):
        return 1
    if config.launch.nproc_per_node is not None:
        return config.launch.nproc_per_node
    if config.run.use_cpu:
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def train(config: Config, directory: Path, world: int, objects: Objects | None = None) -> Outcome:
    """Train in ``world`` processes of their own, restarted up to launch.max_restarts times; how the run ended.

    ``objects`` are sent to every rank by cloudpickle, which takes classes of a notebook.
    """
    for number in range(1, config.launch.max_restarts + 2):
        interrupts.last = None
        failed, outcome = first_cause(_outcomes(config, directory, world, objects))
        if outcome.error and world > 1 and not outcome.wrong_config:
            outcome = replace(outcome, error=f"{rank.name(failed)}: {outcome.error}")
        is_last = number > config.launch.max_restarts or outcome.final or interrupts.last is not None
        if outcome.status is not Status.failed or is_last:
            break
        assert outcome.error is not None
        # without logging set up, Python prints the bare message on stderr
        logger.warning("restart %d of %d: %s", number, config.launch.max_restarts, outcome.error)
        append_to_log(directory, f"{outcome.error}\n{outcome.trace}")
        run_directory.restarted(directory, outcome.error)
        resume_in_place(config)
    return outcome


def resume_in_place(config: Config) -> None:
    """Have a run that is started once more resume from its own newest checkpoint, or start afresh without one."""
    checkpoints = Path(config.run.output_dir) / "checkpoints"
    requested = config.checkpoint.resume_from_checkpoint
    if config.run.do_train and (requested is None or any(checkpoints.glob("checkpoint-*"))):
        config.checkpoint.resume_from_checkpoint = "auto"


def _outcomes(config: Config, directory: Path, world: int, objects: Objects | None) -> Iterator[tuple[int, Outcome]]:
    """Start the ranks and yield each one's number and outcome as it ends. No rank is left running."""
    environment = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(_free_port())
    if world > 1:  # they share the cores
        environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    ranks: list[Process[Outcome]] = []
    with forward_signals(ranks) as forwarded:
        try:
            with signals_held():  # the ranks inherit the mask, and unblock the signals once they can save
                for number in range(world):
                    variables = environment | {"RANK": str(number), "LOCAL_RANK": str(number)}
                    ranks.append(_start(variables, config, directory, objects))
            yield from _collect(ranks)
        finally:
            for process in ranks:
                process.kill()
            if forwarded:
                interrupts.last = forwarded[-1]


def _start(environment: dict[str, str], config: Config, directory: Path, objects: Objects | None) -> Process[Outcome]:
    dumps = pickle.dumps
    if objects is not None:
        import cloudpickle  # type: ignore[import-untyped]

        dumps = cloudpickle.dumps
    arguments = config, directory, objects
    return Process(_train_rank, *arguments, environment=environment, death_signal=signal.SIGKILL, dumps=dumps)


def _collect(ranks: list[Process[Outcome]]) -> Iterator[tuple[int, Outcome]]:
    """Outcomes in the order in which the ranks end; after a failure the others have GRACE_S."""
    with selectors.DefaultSelector() as selector:
        for number, process in enumerate(ranks):
            selector.register(process.pipe, selectors.EVENT_READ, number)
        deadline = float("inf")
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            for key, _ in selector.select(None if remaining == float("inf") else remaining):
                selector.unregister(key.fd)
                outcome = _outcome(ranks[key.data])
                if outcome.status is Status.failed:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
                yield key.data, outcome
        for key in selector.get_map().values():
            what = "is stopped (SIGSTOP)" if ranks[key.data].is_stopped() else "hangs"
            yield key.data, Outcome(status=Status.failed, error=what, silent=True)


def _outcome(process: Process[Outcome]) -> Outcome:
    try:
        return process.result()
    except ProcessDied as died:
        return Outcome(status=Status.failed, error=str(died))


def _train_rank(config: Config, directory: Path, objects: Objects | None) -> Outcome:
    """What a rank's process calls."""
    return rank.train(config, directory, objects).picklable()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
