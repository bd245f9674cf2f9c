"""The devices of this machine, and the one that the running test is about.

The fixtures `device` and `device_type` choose it for a module's tests; runs and engines take `own_device()` and inherit
the choice through a fork.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from trainer import distributed

CPU = torch.device("cpu")
GPUS = torch.cuda.device_count()
"""Counted without initialising CUDA, which would not survive the forks of `tests.ranks`."""
DEVICES = [CPU, *(torch.device("cuda", index) for index in range(GPUS))]
DEVICE_TYPES = ["cpu", *(["cuda"] if GPUS else [])]

_chosen = CPU


@contextmanager
def chosen(device: torch.device) -> Iterator[torch.device]:
    """Make it the device of the tests inside."""
    global _chosen
    before, _chosen = _chosen, device
    yield device
    _chosen = before


def own_device() -> torch.device:
    """The chosen device; on several ranks that use GPUs, this rank's own."""
    if _chosen.type == "cuda" and distributed.world_size() > 1:
        return torch.device("cuda", distributed.local_rank())
    return _chosen


def needs_gpus(number: int) -> None:
    """Skip a test whose ranks run on GPUs where there are fewer than ``number``."""
    if _chosen.type == "cuda" and number > GPUS:
        pytest.skip(f"needs {number} GPUs, this machine has {GPUS}")
