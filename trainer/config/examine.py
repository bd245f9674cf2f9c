"""What a composed config still lacks: values, targets, interpolations that resolve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problem
from ..schema.tree import MULTI_SLOTS, sections, slots
from . import nodes
from .sources import Repository, listed


def flat(error: BaseException) -> str:
    """An exception's message on one line, without Hydra's search path and OmegaConf's key report."""
    text = str(error).split("\nConfig search path")[0].split("\n    full_key:")[0]
    return " ".join(text.split()) or type(error).__name__


def unresolved(cfg: DictConfig | ListConfig, repo: Repository, prefix: str = "") -> Iterator[Problem]:
    """Missing values and broken interpolations, anywhere in the tree."""
    keys: list[Any] = list(cfg.keys()) if isinstance(cfg, DictConfig) else list(range(len(cfg)))
    for name in keys:
        child = nodes.child(cfg, name)
        key = f"{prefix}.{name}" if prefix else str(name)
        if key == "hydra" or child is None or isinstance(child, list):
            continue
        if nodes.is_missing(child):
            options = repo.get_group_options(key) if key in slots() and "." not in key else []
            fix = f"{key}={options[0]}" if options else f"{key}=VALUE"
            yield Problem(key=key, what="has no value and needs one", allowed=listed(options), fix=fix)
        elif nodes.is_reference(child):
            try:
                cfg[name]
            except (OmegaConfBaseException, HydraException, RecursionError) as error:
                reason = "refers to itself" if isinstance(error, RecursionError) else flat(error)
                yield Problem(key=key, value=nodes.raw(child), what=f"cannot be resolved: {reason}")
        elif isinstance(child, DictConfig | ListConfig) and not nodes.is_none(child):
            yield from unresolved(child, repo, key)


def replaced_sections(cfg: DictConfig) -> Iterator[Problem]:
    """Sections that were given a reference instead of their fields; they are put back to their defaults."""
    for name, cls in sections().items():
        node = nodes.child(cfg, name)
        if not nodes.has_keys(node):
            value = nodes.raw(node) if isinstance(node, DictConfig) else node
            OmegaConf.update(cfg, name, OmegaConf.structured(cls), merge=False)
            yield Problem(key=name, value=value, what="is a section: its fields can be set, not the whole")


def without_target(cfg: DictConfig, repo: Repository) -> Iterator[Problem]:
    """Slots that hold something which names no class."""
    named = [f"{multi}.{name!s}" for multi in MULTI_SLOTS for name in _select(cfg, multi) or ()]
    for key in (*slots(), *named):
        node = _select(cfg, key)
        if isinstance(node, DictConfig | ListConfig):
            if key == "data.eval_dataset" and isinstance(node, DictConfig) and node and "_target_" not in node:
                for name in node:  # several, by name
                    one = nodes.child(node, name)
                    if not isinstance(one, DictConfig) or "_target_" not in one:
                        yield _no_target(cfg, f"{key}.{name!s}", repo)
            elif "_target_" not in node:
                yield _no_target(cfg, key, repo)
        elif node is not None:
            what, fix = "must be a mapping with a _target_", f"{key}._target_=package.Class"
            yield Problem(key=key, value=node, what=what, fix=fix)


def _select(cfg: DictConfig, key: str) -> Any:
    return OmegaConf.select(cfg, key, throw_on_missing=False, throw_on_resolution_failure=False)


def _no_target(cfg: DictConfig, key: str, repo: Repository) -> Problem:
    group, name = key.split(".")[0], key.split(".")[-1]
    options = repo.get_group_options(group) if group in ("logging", "callbacks", key) else []
    what = f"{name} is not chosen" if name in options else "has no _target_"
    chosen = [str(n) for n in _select(cfg, key.rpartition(".")[0] or group) or () if n != name]
    fix = f"{group}=[{','.join([*chosen, name])}]" if name in options else f"{key}._target_=package.Class"
    return Problem(key=key, what=what, allowed=listed(options), fix=fix)
