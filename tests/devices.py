"""The devices of this machine, for the fixtures `device` and `device_type`, and a skip for tests that need several."""

from __future__ import annotations

import pytest
import torch

from trainer import distributed

CPU = torch.device("cpu")
GPUS = torch.cuda.device_count()
"""Counted without initialising CUDA, which would not survive the forks of `tests.ranks`."""
DEVICES = [CPU, *(torch.device("cuda", index) for index in range(GPUS))]
DEVICE_TYPES = ["cpu", *(["cuda"] if GPUS else [])]


def needs_gpus(device_type: str, number: int) -> None:
    """Skip a test whose ranks run on GPUs where there are fewer than ``number``."""
    if device_type == "cuda" and number > GPUS:
        pytest.skip(f"needs {number} GPUs, this machine has {GPUS}")


def own_device(device_type: str) -> torch.device:
    """This rank's device."""
    return torch.device(device_type, distributed.local_rank()) if device_type == "cuda" else CPU
