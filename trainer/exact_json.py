"""JSON that comes back as it went: floats to the last bit, nan and infinities included, nothing silently converted."""

from __future__ import annotations

import json
from typing import Any


def dumps(value: Any, name: str = "") -> str:
    """One line of JSON, the same for equal values. Tuples come back as lists; what JSON cannot hold is a TypeError
    that names the key (``name`` is what the whole is called): no str() of an object, no 1 that comes back as "1".
    """
    _check(value, name)
    return json.dumps(value, sort_keys=True)


def _check(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{name or 'the top level'}: the key {key!r} is not a string, as JSON's are")
            _check(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check(item, f"{name}[{index}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{name or 'the top level'}: JSON cannot hold a {kind}")
