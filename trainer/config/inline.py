"""Files that a config names become part of it: what is composed is frozen, whatever happens to the files later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problem
from ..schema import deepspeed
from ..schema.parallel import DeepSpeed
from .origins import Origins


def deepspeed_file(cfg: DictConfig, origins: Origins) -> Iterator[Problem]:
    """Put a DeepSpeed JSON's content in the place of its path, in `parallel.config`; problems still show the path."""
    node, key = cfg._get_node("parallel"), "parallel.config"
    if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is not DeepSpeed:
        return
    try:
        path: Any = node["config"]
    except (OmegaConfBaseException, HydraException):  # examine.unresolved says so
        return
    if not isinstance(path, str):
        return
    try:
        content = deepspeed.read(path)
    except OSError as error:
        yield Problem(key=key, value=path, what=error.strerror or "cannot be read")
    except json.JSONDecodeError as error:
        yield Problem(key=key, value=path, what=f"is no JSON: line {error.lineno}: {error.msg}")
    except ValueError as error:
        yield Problem(key=key, value=path, what=str(error))
    else:
        OmegaConf.update(cfg, key, content, merge=False)
        origins.set(key, ..., origins[key], typed=path)
