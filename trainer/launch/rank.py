"""One rank of a run, trained in this process."""

from __future__ import annotations

import os
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ..build.policy import permit
from ..errors import CheckpointError, ConfigError, describe
from ..run.directory import Status
from ..schema import Config
from .outcome import Outcome
from .process import signals_held

if TYPE_CHECKING:
    from ..train.objects import Objects

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "[c10d]",
    "NCCL error",
    "gloo",
)
"""Words in a RuntimeError's message that blame another rank."""


def train(config: Config, directory: Path, objects: Objects | None = None) -> Outcome:
    """Train as the rank that the environment names (RANK, LOCAL_RANK); rank 0 of one by default. Nothing is raised.

    A signal that arrives before the loop handles signals waits until it does.

    Args:
        config: the run's config.
        directory: the run's directory, begun.
        objects: what a Python caller passed in place of the config's nodes.
    """
    rank = int(os.environ.get("RANK", 0))
    with signals_held():
        permit(config.run.allow_packages)
        try:
            from ..logging.log_file import log_file

            level, level_replica = config.logging.log_level, config.logging.log_level_replica
            if rank and config.logging.log_on_each_node and int(os.environ.get("LOCAL_RANK", rank)) == 0:
                level_replica = level
            with log_file(directory, rank=rank, level=level, level_replica=level_replica):
                from ..train.session import run

                ended = run(config, directory, objects)
                return Outcome(status=Status(ended.status), model=ended.model)
        except KeyboardInterrupt:
            return Outcome(status=Status.stopped)
        except BaseException as error:  # a user's sys.exit() is a failure, too
            return Outcome(
                status=Status.failed,
                error="\n".join(error.lines()) if isinstance(error, ConfigError) else describe(error),
                trace=traceback.format_exc(),
                lost_peer=_blames_a_peer(error),
                final=isinstance(error, ConfigError | CheckpointError),
                wrong_config=isinstance(error, ConfigError),
                exception=error,
            )


def name(rank: int) -> str:
    """A rank as error messages call it."""
    return f"rank {rank} on {socket.gethostname()}"


def _blames_a_peer(error: BaseException) -> bool:
    import torch.distributed as dist

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, dist.DistError):
            return True
        if isinstance(cause, RuntimeError) and any(words in str(cause) for words in LOST_PEER):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
