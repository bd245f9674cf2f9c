"""`data`: the datasets and how batches are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from .fields import FREE, MAX_SEED, Choice, Drift, number


class SamplingStrategy(Choice):
    """The order of the training samples: shuffled, as they come, shuffled with samples of like length together, or
    shuffled with each update's samples dealt out by their cost."""

    random = "random"
    sequential = "sequential"
    group_by_length = "group_by_length"
    batch_rebalance = "batch_rebalance"


class MultiprocessingContext(Choice):
    fork = "fork"
    spawn = "spawn"
    forkserver = "forkserver"


@dataclass(kw_only=True, slots=True)
class Data:
    """Datasets (slots with a `_target_`) and the loader's settings."""

    train_dataset: Any = MISSING
    """Map-style or iterable dataset; an item is a dict of tensors, numbers or lists, or an (input, target) tuple. An
    iterable one without a length has whole epochs in the logs (HF: shares of max_steps), and its last update of a pass
    takes the micro-batches that are left (HF carries their gradients into the next pass)."""
    eval_dataset: Any = field(default=None, metadata=FREE)
    """Dataset for evaluation; required when evaluation.eval_strategy is not `no`. A mapping of names to datasets gives
    `eval_<name>_loss` and so on, all in one record (HF: a dict as eval_dataset, a record for each)."""
    predict_dataset: Any = field(default=None, metadata=FREE)
    """Dataset for run.do_predict; items need no target."""
    collate_fn: str | None = None
    """Dotted name of a function from a list of items to a batch; it replaces the default collation."""
    remove_unused_columns: bool = True
    """Leave out of a batch what is neither an argument of the model's forward nor a target; false collates every key of
    an item (HF: remove_unused_columns). Your own collate_fn gets whole items in any case, as does your own task."""
    label_names: list[str] | None = None
    """Keys of a dict batch that hold the targets; several make a tuple. None: the first of `labels`, `label`, `target`
    that is there (HF: label_names, there found in the names of forward's arguments)."""
    train_sampling_strategy: SamplingStrategy = SamplingStrategy.random
    """The order of the training samples, a function of the seed and the epoch (HF: train_sampling_strategy).
    group_by_length sorts within up to 50 updates, to save padding. batch_rebalance keeps each update's samples and
    deals them out to its micro-batches so that all ranks have as much to do: few long samples or many short ones (HF's
    ignores the seed). An item's length is its length_column_name, else that of its `input_ids` or of its first
    sequence, measured once at the start. Evaluation keeps its order (in HF it is grouped too)."""
    length_column_name: str = "length"
    """Where group_by_length and batch_rebalance find an item's length (HF: length_column_name)."""
    data_seed: int | None = number(None, minimum=0, maximum=MAX_SEED)
    """Seed of the data order (HF: data_seed). Default: run.seed."""
    dataloader_drop_last: bool = False
    """Drop an epoch's last, smaller update, so that all are alike whatever the split into micro-batches and ranks (HF:
    dataloader_drop_last, which drops the smaller micro-batch and keeps an update of fewer). Unlike HF's, it never drops
    evaluation samples."""
    dataloader_num_workers: int = number(0, minimum=0, drift=Drift.free)
    """Worker processes that fetch batches; 0 fetches in the training process (HF: dataloader_num_workers)."""
    dataloader_pin_memory: bool = field(default=True, metadata=FREE)
    """Page-locked batches, for faster copies to a GPU; without effect on a CPU (HF: dataloader_pin_memory)."""
    dataloader_persistent_workers: bool = field(default=False, metadata=FREE)
    """Keep the workers alive from epoch to epoch (HF: dataloader_persistent_workers)."""
    dataloader_prefetch_factor: int | None = number(None, minimum=1, drift=Drift.free)
    """Batches that each worker fetches ahead; torch's default is 2 (HF: dataloader_prefetch_factor)."""
    dataloader_in_order: bool = field(default=True, metadata=FREE)
    """False: a worker never waits for a slower one, and the micro-batches of an update come as they are ready; updates
    keep their samples and their order (HF: dataloader_in_order, which mixes those too). Sums then differ in the last
    bits from run to run."""
    dataloader_multiprocessing_context: MultiprocessingContext | None = field(default=None, metadata=FREE)
    """How workers start; None is the platform's default (HF: dataloader_multiprocessing_context)."""


def named_sets(node: Any) -> dict[str, Any]:
    """The datasets of data.eval_dataset by name; a single one has the name ``""``."""
    if node is None:
        return {}
    several = isinstance(node, dict) and "_target_" not in node
    return dict(node) if several else {"": node}


@dataclass(kw_only=True, slots=True)
class TextBlocks:
    """The standard library's English reference text (pydoc_data.topics, about 470 kB) as blocks of UTF-8 bytes."""

    _target_: str = "trainer.data.text.TextBlocks"
    split: str = "train"
    """`train` (the first 90 % of the text) or `eval` (the rest)."""
    block_size: int = number(128, minimum=2)
    """Bytes of one sample."""


@dataclass(kw_only=True, slots=True)
class Digits:
    """scikit-learn's 1797 handwritten digits, 8 x 8 grey values scaled to [0, 1]."""

    _target_: str = "trainer.data.digits.Digits"
    split: str = "train"
    """`train` (1437 images) or `eval` (the other 360)."""
