"""Named shards in safetensors files: one file per rank, read back in any other division. No pickle.

A shard that is a whole tensor is stored under its name and in its shape, so the file of a one-rank run is an ordinary
safetensors file. A piece is stored flat as ``name@start``; the header's metadata (``pieces``, JSON) describes the
whole.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, describe
from . import files

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(slots=True)
class Shard:
    """A contiguous piece of one named tensor, held by this rank: the unit of the checkpoint format. Every engine
    describes its state in shards, whatever its layout in memory, and any engine at any world size can read them back.
    """

    name: str
    """`model/<parameter or buffer>` or `optim/<state key>/<parameter>`; parameter names as in model.named_parameters()
    of the unwrapped model."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: int
    """Index of this piece's first element in the flattened (row-major) whole tensor."""
    data: Tensor
    """The piece, 1-D, contiguous, on any device. May alias live memory: writers copy."""


def file_name(rank: int) -> str:
    """The name of the file with a rank's shards."""
    return f"rank-{rank:05d}.safetensors"


def write(path: Path, shards: Sequence[Shard], between: Callable[[], object] = lambda: None) -> files.Written:
    """Write one rank's shards to a new file, which is on the disk when this returns. Tensors pass through the CPU one
    at a time, so saving needs no second copy of the state; ``between`` is called after each of them.
    """
    return files.write(path, _encode(shards, between))


def _encode(shards: Sequence[Shard], between: Callable[[], object]) -> Iterator[bytes | memoryview]:
    # widest elements first, as in safetensors: every tensor is then aligned in the memory map
    shards = sorted(shards, key=lambda shard: -shard.data.element_size())
    header: dict[str, Any] = {}
    pieces: dict[str, Any] = {}
    end = 0
    for shard in shards:
        size = shard.data.numel()
        if shard.start < 0 or shard.start + size > math.prod(shard.shape):
            raise ValueError(
                f"{shard.name}: a piece of {size} elements from {shard.start} does not fit in shape {shard.shape}"
            )
        if shard.data.dtype not in _NAMES:
            raise TypeError(f"{shard.name}: safetensors cannot store {shard.data.dtype}")
        whole = size == math.prod(shard.shape)
        key = shard.name if whole else f"{shard.name}@{shard.start}"
        if key in header:
            raise ValueError(f"{key}: this rank has two shards of this name")
        if not whole:
            pieces[key] = {"name": shard.name, "shape": shard.shape, "start": shard.start}
        begin, end = end, end + size * shard.data.element_size()
        shape = shard.shape if whole else (size,)
        header[key] = {"dtype": _NAMES[shard.data.dtype], "shape": shape, "data_offsets": (begin, end)}
    header["__metadata__"] = {"format": "pt", "pieces": json.dumps(pieces)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for shard in shards:
        data = shard.data.detach().cpu().contiguous()
        if data.numel():
            # straight from the tensor's memory: numpy has no bfloat16
            yield memoryview((ctypes.c_char * (data.numel() * data.element_size())).from_address(data.data_ptr())).cast(
                "B"
            )
        between()


@dataclass(slots=True)
class _Piece:
    start: int
    stop: int
    file: Any
    key: str


@dataclass(slots=True)
class _Entry:
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: list[_Piece]


class ShardReader:
    """Reads whole tensors of a checkpoint, or any range of them, lazily, whatever number of ranks wrote it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._entries: dict[str, _Entry] = {}
        for path in sorted(directory.glob("rank-*.safetensors")):
            try:
                file: Any = safe_open(path, framework="pt")
                pieces = json.loads((file.metadata() or {}).get("pieces", "{}"))
                for key in file.keys():  # noqa: SIM118 - not a dict
                    self._add(file, key, pieces.get(key))
            except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
                what = f"{path}: is not a safetensors file of a checkpoint: {describe(error)[:200]}"
                raise CheckpointError(what) from error
        for entry in self._entries.values():
            entry.pieces.sort(key=lambda piece: (piece.start, -piece.stop))

    def _add(self, file: Any, key: str, piece: dict[str, Any] | None) -> None:
        view = file.get_slice(key)
        stored, dtype = tuple(view.get_shape()), _DTYPES[view.get_dtype()]
        name, shape, start = (piece["name"], tuple(piece["shape"]), piece["start"]) if piece else (key, stored, 0)
        entry = self._entries.setdefault(name, _Entry(shape, dtype, []))
        if (entry.shape, entry.dtype) != (shape, dtype):
            raise ValueError(f"{name} is {dtype} {shape} here, {entry.dtype} {entry.shape} in another file")
        entry.pieces.append(_Piece(start, start + math.prod(stored), file, key))

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Type of the tensor's elements."""
        return self._entry(name).dtype

    def read(self, name: str, start: int = 0, length: int | None = None) -> Tensor:
        """``length`` elements (default: the rest) of the flattened tensor from ``start``, as a new one on the CPU."""
        entry = self._entry(name)
        total = math.prod(entry.shape)
        stop = total if length is None else start + length
        if not 0 <= start <= stop <= total:
            raise IndexError(f"{name}: cannot read elements {start} to {stop} of {total}")
        result = torch.empty(stop - start, dtype=entry.dtype)
        at = start
        for piece in entry.pieces:
            if piece.start > at:
                break
            if piece.stop > at and at < stop:
                upto = min(piece.stop, stop)
                # a view into the memory map: only the pages of this range are read
                stored = piece.file.get_tensor(piece.key).reshape(-1)
                result[at - start : upto - start] = stored[at - piece.start : upto - piece.start]
                at = upto
        if at < stop:
            upto = min([stop] + [piece.start for piece in entry.pieces if piece.start > at])
            raise CheckpointError(
                f"{self._directory}: {name}: elements {at} to {upto} of {total} are not in any of its files"
            )
        return result

    def read_whole(self, name: str) -> Tensor:
        """The whole tensor in its shape, as a new tensor on the CPU."""
        return self.read(name).reshape(self.shape(name))

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"{self._directory}: has no tensor {name}") from None
