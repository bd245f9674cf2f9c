"""Rules of `train`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import task
from ..config import Config
from .sentences import excludes, needs, outside


def length(config: Config) -> Iterator[Problem]:
    """max_steps=0 would train nothing; HF trains one step."""
    if config.train.max_steps == 0:
        allowed = "-1 (use num_train_epochs) or at least 1"
        yield outside("train.max_steps", 0, "trains nothing", allowed, fix="train.max_steps=1")


def smoothing(config: Config) -> Iterator[Problem]:
    """Only tasks with classes have labels to smooth."""
    factor = config.train.label_smoothing_factor
    if factor > 0 and not isinstance(config.task, task.LanguageModeling | task.Classification):
        fix = "task=classification (torch.nn.CrossEntropyLoss has task.label_smoothing itself)"
        other = "a task with classes of its own"
        yield needs("train.label_smoothing_factor", factor, other, fix=fix, related=("task",))


def batch_size(config: Config) -> Iterator[Problem]:
    """A run that starts over must know that nobody still writes its checkpoints."""
    if config.train.auto_find_batch_size and config.checkpoint.async_save:
        fix = "checkpoint.async_save=false"
        yield excludes("train.auto_find_batch_size", True, "checkpoint.async_save=true", fix=fix)


RULES = (length, smoothing, batch_size)
