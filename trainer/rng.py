"""The global random number generators: torch's (CPU and CUDA), Python's, numpy's.

``capture_rng`` and ``restore_rng`` use JSON, for checkpoints; ``snapshot`` and ``put_back`` are fast (25 us), for calls
that must leave no trace.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def capture_rng() -> dict[str, Any]:
    """The state of every generator that this process uses; CUDA and numpy only once they are initialised."""
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
    """Restore the generators. GPUs that this machine does not have are left out."""
    torch.set_rng_state(_tensor(state["torch"]))
    version, words, gauss = state["random"]
    random.setstate((version, tuple(words), gauss))
    for index, generator in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_tensor(generator), index)
    if "numpy" in state:
        import numpy

        kind, keys, position, has_gauss, gauss = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, gauss))


class Generators:
    """The global generators as a part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        return capture_rng()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        restore_rng(state)


def seed_everything(seed: int) -> None:
    """Seed random, numpy and torch on all devices (HF: set_seed)."""
    random.seed(seed)
    torch.manual_seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


Snapshot = tuple[Tensor, Any, Any]
"""States of torch's CPU generator, of Python's and of numpy's (None while numpy is not imported)."""


def snapshot() -> Snapshot:
    """The current states of the CPU generators."""
    numpy = sys.modules.get("numpy")
    return torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None


def put_back(before: Snapshot) -> None:
    """Restore what snapshot returned."""
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    if before[2] is not None:
        sys.modules["numpy"].random.set_state(before[2])


def touched(before: Snapshot) -> bool:
    """Whether a random number has been drawn since ``before``."""
    now = snapshot()
    if not torch.equal(before[0], now[0]) or before[1] != now[1]:
        return True
    # numpy's legacy state: name, 624 words, position, and a cached Gaussian
    return before[2] is not None and bool(before[2][2:] != now[2][2:] or (before[2][1] != now[2][1]).any())


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore all global generators, those of the GPUs included, on leaving."""
    before = snapshot()
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if initialized else None
    try:
        yield
    finally:
        put_back(before)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _text(generator: Tensor) -> str:
    return bytes(generator.tolist()).hex()


def _tensor(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
