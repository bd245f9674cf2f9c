"""Files that a config names become part of it: what is composed is frozen, whatever happens to the files later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problem
from ..schema.parallel import DeepSpeed
from . import nodes
from .files import MAX_BYTES, MAX_DEPTH
from .origins import Origins


def deepspeed_file(cfg: DictConfig, origins: Origins) -> Iterator[Problem]:
    """Put a DeepSpeed JSON's content in the place of its path, in `parallel.config`; problems still show the path."""
    node, key = nodes.child(cfg, "parallel"), "parallel.config"
    if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is not DeepSpeed:
        return
    try:
        path: Any = node["config"]
    except (OmegaConfBaseException, HydraException):  # examine.unresolved says so
        return
    if not isinstance(path, str):
        return
    try:
        content = read_json(path)
    except OSError as error:
        yield Problem(key=key, value=path, what=error.strerror or "cannot be read")
    except json.JSONDecodeError as error:
        yield Problem(key=key, value=path, what=f"is not valid JSON: line {error.lineno}: {error.msg}")
    except ValueError as error:
        yield Problem(key=key, value=path, what=str(error))
    else:
        OmegaConf.update(cfg, key, content, merge=False)
        origins.set(key, ..., origins[key], typed=path)


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object of the size and depth that a YAML file may have.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a JSON object, or too large a one.
    """
    with Path(path).expanduser().open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"is longer than {MAX_BYTES} bytes")
    try:
        content = json.loads(raw)
        too_deep = _depth(content) > MAX_DEPTH
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    return content


def _depth(node: Any) -> int:
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return 1 + max(map(_depth, inside), default=0)
