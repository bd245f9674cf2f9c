"""The only door from a config node to an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from hydra.utils import instantiate

from .policy import locate


def build(node: Any, /, **runtime: Any) -> Any:
    """Build what ``node._target_`` names.

    One of our typed nodes is handed over whole: ``target(node, **runtime)``. A foreign mapping becomes keyword
    arguments: ``target(**node, **runtime)``, nested ``_target_`` built first. Runtime objects (parameters, datasets)
    never pass through Hydra, which would turn parameter groups into DictConfigs.
    """
    if is_dataclass(node) and not isinstance(node, type):
        return locate(node._target_)(node, **runtime)  # type: ignore[attr-defined]
    _authorise(node)
    return instantiate(node, _partial_=True, _convert_="all")(**runtime)


def load(name: str) -> Any:
    """The object with a dotted name, such as the function that data.collate_fn names."""
    return locate(name)


def _authorise(node: Any) -> None:
    """Every name in a foreign mapping passes policy.py before Hydra imports it."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            locate(node["_target_"])
        for child in node.values():
            _authorise(child)
    elif isinstance(node, list | tuple):
        for child in node:
            _authorise(child)
