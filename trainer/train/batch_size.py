"""train.auto_find_batch_size: when memory runs out, start again with a smaller batch."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from .. import distributed
from ..schema import Config

T = TypeVar("T")
logger = logging.getLogger(__name__)

FACTOR = 0.9
"""The one of accelerate's find_executable_batch_size."""
_FLAG = "out of memory"
_WORDS = ("out of memory", "CUDNN_STATUS_NOT_SUPPORTED", "can't allocate memory", "cannot allocate memory")


class DoesNotFit(Exception):
    """This rank or another one ran out of memory. Nothing is left of the session in which it did."""


class EvaluationDoesNotFit(Exception):
    """Memory ran out in an evaluation, whose batch size is never changed."""


@contextmanager
def evaluation(config: Config) -> Iterator[None]:
    """Turns running out of memory into EvaluationDoesNotFit: it says nothing about the training's batch size."""
    try:
        yield
    except Exception as error:
        if config.train.auto_find_batch_size and is_out_of_memory(error):
            size = config.evaluation.per_device_eval_batch_size
            raise EvaluationDoesNotFit(
                f"evaluation.per_device_eval_batch_size={size} does not fit; train.auto_find_batch_size=true "
                "leaves it as it is; fix: a smaller one"
            ) from error
        raise


def find(config: Config, directory: Path, attempt: Callable[[int], T]) -> T:
    """Call ``attempt(batch size)`` with smaller sizes until it no longer raises DoesNotFit; return its result."""
    size = config.train.per_device_train_batch_size
    if not config.train.auto_find_batch_size:
        return attempt(size)
    size = saved_size(config, directory) or size
    try:
        while True:
            try:
                return attempt(size)
            except DoesNotFit as error:
                smaller, reason = int(size * FACTOR), str(error)
            # Outside the handler, where nothing holds the frames of the failure, and with them its tensors.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if distributed.is_main():
                logger.warning(
                    "train.per_device_train_batch_size=%d does not fit (%s): starting over with %d",
                    size,
                    reason,
                    smaller,
                )
            size = smaller
    finally:
        distributed.forget_store()


def does_not_fit(error: BaseException, size: int) -> bool:
    """Whether a smaller batch may help: memory ran out here, or on another rank, which this one notices as an error of
    communication. False at a batch size of 1."""
    if int(size * FACTOR) < 1:
        return False
    if is_out_of_memory(error):
        distributed.raise_flag(_FLAG)
    elif not (isinstance(error, Exception) and distributed.flag_is_up(_FLAG)):
        return False
    distributed.hang_up()
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU or the CPU ran out of memory (accelerate: should_reduce_batch_size)."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def saved_size(config: Config, directory: Path) -> int | None:
    """The batch size of the checkpoints that this run resumes from; None without one. Each rank reads it by itself,
    because there is no process group yet."""
    source = config.checkpoint.resume_from_checkpoint
    if source is None:
        return None
    found = (directory / "checkpoints").glob("checkpoint-*") if source == "auto" else [Path(source).expanduser()]
    for path in sorted(found):
        try:
            return int(json.loads((path / "state.json").read_bytes())["data"]["batch_size"])
        except (OSError, ValueError, LookupError, TypeError):  # damaged: another one has the same size
            continue
    return None
