"""The only door from a config node to an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any

from .policy import locate

SPECIAL = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
"""Hydra's own keys of a node; the others are arguments."""


def build(node: Any, /, **runtime: Any) -> Any:
    """Build what ``node._target_`` names.

    One of our typed nodes is handed over whole: ``target(node, **runtime)``. A foreign mapping becomes keyword
    arguments: ``target(**node, **runtime)``, nested ``_target_`` built first, with Hydra's ``_args_``, ``_partial_``
    and ``_recursive_``. Values are taken as they are: no ``${...}`` is resolved here, since it could bring in a
    ``_target_`` that nobody has checked.

    Raises:
        Refused: the node, or one inside it, names what a config may not call; nothing has been called then.
    """
    if is_dataclass(node) and not isinstance(node, type):
        return locate(node._target_)(node, **runtime)  # type: ignore[attr-defined]
    _authorise(node)
    return _called(node, runtime)


def load(name: str) -> Any:
    """The object with a dotted name, such as the function that data.collate_fn names."""
    return locate(name)


def _authorise(node: Any) -> None:
    """Let every name in a foreign mapping pass policy.py before anything is called."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            locate(node["_target_"])
        for child in node.values():
            _authorise(child)
    elif isinstance(node, list | tuple):
        for child in node:
            _authorise(child)


def _called(node: Mapping[str, Any], runtime: Mapping[str, Any]) -> Any:
    recursive = node.get("_recursive_", True)
    positional = [_value(item, recursive) for item in node.get("_args_", ())]
    named = {name: _value(item, recursive) for name, item in node.items() if name not in SPECIAL}
    target = locate(node["_target_"])
    if node.get("_partial_"):
        return partial(target, *positional, **named, **runtime)
    return target(*positional, **named, **runtime)


def _value(value: Any, recursive: bool) -> Any:
    if isinstance(value, Mapping):
        if recursive and "_target_" in value:
            return _called(value, {})
        return {name: _value(item, recursive) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, recursive) for item in value]
    return value
