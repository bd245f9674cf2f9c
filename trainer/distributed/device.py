"""The device of this rank, and deterministic algorithms."""

from __future__ import annotations

import os

import torch

from . import groups


def this_device(*, use_cpu: bool) -> torch.device:
    """This rank's GPU, made the current one; the CPU without a GPU or with ``use_cpu``."""
    if use_cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(groups.local_rank())
    return torch.device("cuda", groups.local_rank())


def device_name(device: torch.device) -> str:
    """The device's name for the manifest, such as `NVIDIA H100 80GB HBM3` or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def repeat_exactly() -> None:
    """Use deterministic algorithms in this process: run.full_determinism (HF: enable_full_determinism)."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
