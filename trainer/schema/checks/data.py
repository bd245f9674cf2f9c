"""Rules of `data`: workers, the order of batches, the shipped data sets."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ..config import Config
from .sentences import excludes, needs, outside, wrong

WORKERS = "data.dataloader_num_workers"


def workers(config: Config) -> Iterator[Problem]:
    """Settings of worker processes need worker processes."""
    data = config.data
    if data.dataloader_num_workers > 0:
        return
    for name, value in (
        ("dataloader_prefetch_factor", data.dataloader_prefetch_factor),
        ("dataloader_persistent_workers", data.dataloader_persistent_workers or None),
        ("dataloader_multiprocessing_context", data.dataloader_multiprocessing_context),
    ):
        if value is not None:
            yield needs(f"data.{name}", value, "worker processes", fix=f"{WORKERS}=2", related=(WORKERS,))


def batch_order(config: Config) -> Iterator[Problem]:
    """Only workers can come out of order; and then nothing repeats to the bit."""
    data, key = config.data, "data.dataloader_in_order"
    if data.dataloader_in_order:
        return
    if not data.dataloader_num_workers:
        yield needs(key, False, "worker processes", fix=f"{WORKERS}=2", related=(WORKERS,))
    if config.run.full_determinism:
        yield excludes(key, False, "run.full_determinism=true", fix=f"{key}=true")


def splits(config: Config) -> Iterator[Problem]:
    """The shipped data sets have two splits."""
    for name in ("train_dataset", "eval_dataset"):
        split = getattr(getattr(config.data, name), "split", None)
        if split is not None and split not in ("train", "eval"):
            yield outside(f"data.{name}.split", split, "there is no such split", "train, eval")


def labels(config: Config) -> Iterator[Problem]:
    """An empty list would name no label."""
    if config.data.label_names == []:
        yield wrong("data.label_names", [], "names no key", fix="data.label_names=null")


RULES = (workers, batch_order, splits, labels)
