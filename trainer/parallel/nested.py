"""Optimizer state other than plain tensors, under dotted keys: tensor subclasses (torchao's quantised moments), lists
of tensors, objects (GaLore's projector). Nothing is pickled: the optimizer makes its objects, a checkpoint fills them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, plain tensor or JSON-able value) of one entry of an optimizer's state."""
    parts = _parts(value)
    if parts is None:
        yield key, value
    for name, part in (parts or {}).items():
        yield from leaves(f"{key}.{name}", part)


def is_nested(key: str) -> bool:
    """Whether a key names a part of an entry."""
    return "." in key


def rebuild(templates: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that ``leaves`` took apart into ``flat``. ``templates`` are entries of the same kinds, filled in
    place."""
    names = dict.fromkeys(full.split(".")[0] for full in flat)
    return {name: flat[name] if name in flat else _filled(name, templates[name], flat) for name in names}


def _parts(value: Any) -> dict[str, Any] | None:
    """The parts of a value that is stored in parts; None for any other."""
    if isinstance(value, Tensor):
        if isinstance(value, DTensor) or not is_traceable_wrapper_subclass(value):
            return None
        names, _ = value.__tensor_flatten__()
        return {name: getattr(value, name) for name in names}
    if isinstance(value, list | tuple):
        return {str(i): part for i, part in enumerate(value)} if any(_is_stored(part) for part in value) else None
    return dict(vars(value)) if hasattr(value, "__dict__") else None


def _is_stored(value: Any) -> bool:
    return isinstance(value, Tensor) or _parts(value) is not None


def _filled(key: str, template: Any, flat: Mapping[str, Any]) -> Any:
    parts = _parts(template)
    if key in flat or parts is None:
        return _like(template, flat[key])
    parts = {name: _filled(f"{key}.{name}", part, flat) for name, part in parts.items()}
    if isinstance(template, Tensor):
        _, context = template.__tensor_flatten__()  # type: ignore[attr-defined]
        return type(template).__tensor_unflatten__(parts, context, template.shape, template.stride())  # type: ignore[attr-defined]
    if isinstance(template, list | tuple):
        return type(template)(parts.values())
    for name, part in parts.items():
        setattr(template, name, part)
    return template


def _like(template: Any, saved: Any) -> Any:
    """``saved`` on the template's device and with its strides: a product with a transposed layout differs in its last
    bits."""
    if not isinstance(saved, Tensor) or not isinstance(template, Tensor):
        return saved
    strides = template.stride() if template.shape == saved.shape else saved.stride()
    return torch.empty_strided(saved.shape, strides, dtype=saved.dtype, device=template.device).copy_(saved)
