"""Tensors inside nested values: batches, model outputs, arguments.

torch.utils._pytree walks dicts, lists, (named) tuples and every registered type (transformers' ModelOutput registers
itself); what it takes for leaves although they hold values is opened here: subclasses of dict, list and tuple, any
Mapping (transformers' BatchEncoding is a UserDict), and dataclasses.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map


def map_leaves(
    function: Callable[[Any], Any], value: Any, *, is_leaf: Callable[[Any], bool] = lambda value: False
) -> Any:
    """``value`` with ``function`` applied to its leaves, in new containers of the same types.

    ``is_leaf`` may declare a container a leaf.
    """

    def visit(node: Any) -> Any:
        if isinstance(node, Tensor) or is_leaf(node):
            return function(node)
        kind = type(node)
        if kind is dict:  # almost every batch and output: 2 us here, 20 us in tree_map
            return {name: visit(part) for name, part in node.items()}
        if kind is list or kind is tuple:
            return kind([visit(part) for part in node])
        return tree_map(open_leaf, node, is_leaf=is_leaf)

    def open_leaf(node: Any) -> Any:
        if isinstance(node, Tensor) or is_leaf(node) or (fields := _fields(node)) is None:
            return function(node)
        return _rebuild(node, {name: visit(part) for name, part in fields.items()})

    return visit(value)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to its tensors, in new containers of the same types; the rest as it is."""
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in ``value``, at any depth, in order."""
    for leaf in tree_iter(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif fields := _fields(leaf):
            yield from tensors(list(fields.values()))


def _fields(node: Any) -> Mapping[Any, Any] | None:
    """What a container holds by key, index or field; None for anything else."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, list | tuple):
        return dict(enumerate(node))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        names = [field.name for field in dataclasses.fields(node)]
        return {name: getattr(node, name) for name in names if hasattr(node, name)}
    return None


def _rebuild(node: Any, fields: dict[Any, Any]) -> Any:
    """A container like ``node`` that holds ``fields``."""
    if isinstance(node, list | tuple):
        return type(node)(fields.values())
    if isinstance(node, dict | UserDict):  # a copy keeps the attributes: a tokenizer's encodings, say
        other = copy.copy(node)
        other.update(fields)
        return other
    if isinstance(node, Mapping):
        return type(node)(fields)  # type: ignore[call-arg]
    other = copy.copy(node)  # dataclasses.replace would run __post_init__ again and refuse init=False fields
    for name, part in fields.items():
        object.__setattr__(other, name, part)  # also where the class is frozen
    return other
