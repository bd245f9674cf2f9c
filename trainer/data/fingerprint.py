"""What tells the data of a run from other data: a checkpoint keeps it, and a resumed run compares."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ..rng import preserved_rng
from .fetch import seed_all

Fingerprint = dict[str, Any]
"""`length`, `first` and `last` (digests of the items) and `files` ([path, bytes, modification time in ns]); None stands
for what a dataset does not tell."""
MAX_FILES = 10_000
"""Of a directory, in the order of their names."""


def fingerprint(dataset: Any, node: Any) -> Fingerprint | None:
    """The fingerprint of a training dataset.

    Two items are read. An iterable dataset has none, because reading it may use it up; an item that is another one each
    time, under the same seed, is not told either.

    Args:
        dataset: None if the run does not train.
        node: its plain node in the config; texts in it that are paths name the files.
    """
    if dataset is None:
        return None
    length = _length(dataset)
    first = last = None
    if length and not isinstance(dataset, IterableDataset):
        first, last = _item(dataset, 0), _item(dataset, length - 1)
    return {"length": length, "first": first, "last": last, "files": [list(file) for file in _files(node)]}


def compare(before: Fingerprint, now: Fingerprint) -> list[str]:
    """In words, how data differs from that of ``before``."""
    found = []
    if before["length"] != now["length"]:
        found.append(f"its length was {before['length']}, now it is {now['length']}")
    for name in ("first", "last"):
        if before[name] and now[name] and before[name] != now[name] and not found:
            found.append(f"its {name} item is another one")
    old, new = ({path: stat for path, *stat in side["files"]} for side in (before, now))
    changed = sorted(path for path in old.keys() & new.keys() if old[path] != new[path])
    if changed:
        more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
        found.append(f"{changed[0]}{more} changed in size or modification time")
    return found


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def _item(dataset: Any, index: int) -> str | None:
    digests = set()
    for _ in range(2):
        with preserved_rng():
            seed_all((0, 0, 0))
            try:
                item = dataset[index]
            except Exception:  # training says what is wrong with it
                return None
        digest = hashlib.sha256()
        for part in _parts(item):
            digest.update(part)
        digests.add(digest.hexdigest())
    return digests.pop() if len(digests) == 1 else None


def _parts(value: Any) -> Iterator[bytes]:
    """An item's content; of an object of an unknown kind only its class."""
    if isinstance(value, Mapping):
        for key in value:
            yield repr(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} of".encode()
        for one in value:
            yield from _parts(one)
    elif isinstance(value, str | int | float | bool | bytes | type(None)):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        dense = value.detach().to("cpu").contiguous()
        yield f"{dense.dtype} {tuple(dense.shape)}".encode()
        yield dense.flatten().view(torch.uint8).numpy().tobytes() if dense.numel() else b""
    elif hasattr(value, "tobytes"):  # arrays and images
        yield f"{type(value).__name__} {getattr(value, 'shape', getattr(value, 'size', ''))}".encode()
        yield value.tobytes()
    else:
        yield type(value).__qualname__.encode()


def _files(node: Any) -> Iterator[tuple[str, int, int]]:
    """The files that texts in the node name, and those in directories that they name; hidden ones and caches aside."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            if name != "_target_":
                yield from _files(child)
    elif isinstance(node, list):
        for child in node:
            yield from _files(child)
    elif isinstance(node, str) and node:
        path = Path(node).expanduser()
        try:
            if path.is_file():
                yield _stat(path)
            # a run writes below the working directory: what is there is not the data
            elif path.is_dir() and not Path.cwd().is_relative_to(path.resolve()):
                paths = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "cache-")))
                yield from map(_stat, islice(sorted(paths), MAX_FILES))
        except OSError:  # too long for a path, or not to be read
            return


def _stat(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns
