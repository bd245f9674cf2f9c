"""`data`: the datasets and how batches are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from .fields import Choice, number


class MultiprocessingContext(Choice):
    fork = "fork"
    spawn = "spawn"
    forkserver = "forkserver"


@dataclass(kw_only=True, slots=True)
class Data:
    """Datasets (slots with a `_target_`) and the loader's settings."""

    train_dataset: Any = MISSING
    """Map-style or iterable dataset; an item is a dict of tensors, numbers or lists, or an (input, target) tuple."""
    eval_dataset: Any = None
    """Dataset for evaluation; required when evaluation.eval_strategy is not `no`."""
    collate_fn: str | None = None
    """Dotted name of a function from a list of items to a batch; it replaces the default collation."""
    data_seed: int | None = None
    """Seed of the data order (HF: data_seed). Default: run.seed."""
    dataloader_drop_last: bool = False
    """Drop an epoch's last, smaller update (HF: dataloader_drop_last). Unlike HF's, it never drops evaluation samples."""
    dataloader_num_workers: int = number(0, minimum=0)
    """Worker processes that fetch batches; 0 fetches in the training process (HF: dataloader_num_workers)."""
    dataloader_pin_memory: bool = True
    """Page-locked batches, for faster copies to a GPU; without effect on a CPU (HF: dataloader_pin_memory)."""
    dataloader_persistent_workers: bool = False
    """Keep the workers alive from epoch to epoch (HF: dataloader_persistent_workers)."""
    dataloader_prefetch_factor: int | None = number(None, minimum=1)
    """Batches that each worker fetches ahead; torch's default is 2 (HF: dataloader_prefetch_factor)."""
    dataloader_multiprocessing_context: MultiprocessingContext | None = None
    """How workers start; None is the platform's default (HF: dataloader_multiprocessing_context)."""


@dataclass(kw_only=True, slots=True)
class TextBlocks:
    """The standard library's English reference text (pydoc_data.topics, about 470 kB) as blocks of UTF-8 bytes."""

    _target_: str = "trainer.datasets.text.TextBlocks"
    split: str = "train"
    """`train` (the first 90 % of the text) or `eval` (the rest)."""
    block_size: int = number(128, minimum=2)
    """Bytes of one sample."""


@dataclass(kw_only=True, slots=True)
class Digits:
    """scikit-learn's 1797 handwritten digits, 8 x 8 grey values scaled to [0, 1]."""

    _target_: str = "trainer.datasets.digits.Digits"
    split: str = "train"
    """`train` (1437 images) or `eval` (the other 360)."""
