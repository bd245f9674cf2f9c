"""Digests of a checkpoint, item by item: two runs are in the same state if all items are equal, and a test can name
those that are not. Tensors are hashed whole, so a digest is the same at any world size and with any engine.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from . import files
from .shard import ShardReader


def items(checkpoint: Path) -> dict[str, str]:
    """sha256 of everything in a checkpoint, by name: `model/<name>` and `optim/<key>/<name>` for tensors,
    `state.<key>...` for the values that all ranks share, `rank-<r>.<key>...` for those of one rank (its random number
    generators).
    """
    reader = ShardReader(checkpoint)
    result = {name: _tensor(reader.read_whole(name)) for name in reader.names()}
    for path in (checkpoint / "state.json", *sorted(checkpoint.glob("rank-*.json"))):
        result |= _leaves(path.stem, json.loads(path.read_bytes()))
    return result


def total(items: dict[str, str]) -> str:
    """One digest over all items."""
    return hashlib.sha256(files.dumps(items).encode()).hexdigest()


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the items that differ, or are in only one of the two."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _tensor(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    size = tensor.numel() * tensor.element_size()
    if size:
        digest.update((ctypes.c_char * size).from_address(tensor.data_ptr()))
    return digest.hexdigest()


def _leaves(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict) and value:
        return {key: item for part in value for key, item in _leaves(f"{name}.{part}", value[part]).items()}
    return {name: hashlib.sha256(files.dumps(value).encode()).hexdigest()}
