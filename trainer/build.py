"""The only door from a config node to an object."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from hydra.utils import get_object, instantiate


def build(node: Any, /, **runtime: Any) -> Any:
    """Build what ``node._target_`` names.

    One of our typed nodes is handed over whole: ``target(node, **runtime)``. A foreign mapping becomes keyword
    arguments: ``target(**node, **runtime)``, nested ``_target_`` built first. Runtime objects (parameters, datasets)
    never pass through Hydra, which would turn parameter groups into DictConfigs.
    """
    if is_dataclass(node) and not isinstance(node, type):
        return get_object(node._target_)(node, **runtime)  # type: ignore[attr-defined]
    return instantiate(node, _partial_=True, _convert_="all")(**runtime)


def load(name: str) -> Any:
    """The object with a dotted name, such as the function that data.collate_fn names."""
    return get_object(name)
