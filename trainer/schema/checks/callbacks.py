"""Rules of `callbacks`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import callbacks
from ..config import Config
from .evaluation import needs_evaluation


def early_stopping(config: Config) -> Iterator[Problem]:
    """It stops on the results of evaluations."""
    for name, node in config.callbacks.items():
        if isinstance(node, callbacks.EarlyStopping):
            yield from needs_evaluation(config, f"callbacks.{name}", ...)


RULES = (early_stopping,)
