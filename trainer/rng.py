"""The global random number generators, taken down and put back as JSON: torch (CPU and CUDA), random, numpy."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch import Tensor


def capture_rng() -> dict[str, Any]:
    """State of every generator this process has in use; CUDA and numpy only when they have been initialised."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": _text(torch.get_rng_state()),
        "random": [version, list(words), gauss],
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = [_text(generator) for generator in torch.cuda.get_rng_state_all()]
    if "numpy" in sys.modules:
        kind, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
        state["numpy"] = [kind, keys.tolist(), position, has_gauss, gauss]
    return state


def restore_rng(state: dict[str, Any]) -> None:
    """Put the generators back. GPUs that this machine does not have are left out."""
    torch.set_rng_state(_tensor(state["torch"]))
    version, words, gauss = state["random"]
    random.setstate((version, tuple(words), gauss))
    for index, generator in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_tensor(generator), index)
    if "numpy" in state:
        import numpy

        kind, keys, position, has_gauss, gauss = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, gauss))


def _text(generator: Tensor) -> str:
    return bytes(generator.tolist()).hex()


def _tensor(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def seed_everything(seed: int) -> None:
    """Seed random, numpy and torch on all devices (HF: set_seed)."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
