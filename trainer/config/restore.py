"""A run's config.yaml back as the typed tree that was written."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import ConfigError, Problem
from ..schema import OPTIONS, Config
from ..schema.tree import MULTI_SLOTS, group_of, slots
from . import files
from .conversion import to_config


def restore(path: Path) -> Config:
    """The config that a run's directory keeps; secrets are masked in it.

    Nothing that it names is imported. A field that this release has and the file lacks gets its default.

    Raises:
        ConfigError: the file cannot be read, or holds what this release's schema does not have.
    """
    try:
        content = OmegaConf.create(files.read(path).content)
    except files.BadYaml as error:
        raise ConfigError([error.problem]) from None
    cfg: DictConfig = OmegaConf.structured(Config)
    for key, node in _objects(content):
        if (option := _option(key, node)) is not None:
            OmegaConf.update(cfg, key, OmegaConf.structured(option), merge=False)
    try:
        cfg.merge_with(content)
        return to_config(cfg)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or path.name)
        what = f"does not fit this release's schema: {str(error).splitlines()[0]}"
        raise ConfigError([Problem(key=key, origin=files.shown(path), what=what)]) from None


def _objects(content: Any) -> list[tuple[str, Any]]:
    """(key, mapping) of everything in ``content`` that names a class."""
    keys = [*slots(), *(f"{multi}.{name}" for multi in MULTI_SLOTS for name in OmegaConf.select(content, multi) or ())]
    sets = OmegaConf.select(content, "data.eval_dataset")
    if isinstance(sets, DictConfig) and "_target_" not in sets:  # several, by name
        keys += [f"data.eval_dataset.{name}" for name in map(str, sets)]
    found = [(key, OmegaConf.select(content, key)) for key in keys]
    return [(key, node) for key, node in found if isinstance(node, DictConfig) and "_target_" in node]


def _option(key: str, node: DictConfig) -> type | None:
    """The schema class that ``node`` was written from; None for a user's own.

    A class with the same `_target_` and the same fields; of our own classes also one with more of them, since an older
    release may have written the file.
    """
    group = "reporters" if key.startswith("logging.reporters.") else group_of(key)
    for option in OPTIONS.get(group, {}).values():
        declared = {f.name: f.default for f in fields(option)}
        if declared["_target_"] != node._target_:
            continue
        if declared.keys() == set(node) or (node._target_.startswith("trainer.") and declared.keys() > set(node)):
            return option
    return None
