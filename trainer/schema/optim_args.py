"""`optim.optim_args`: text or a mapping, made typed values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_COMMA = re.compile(r",(?![^(\[]*[)\]])")
_WORDS: dict[str, Any] = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}

BETAS = ("beta1", "beta2", "beta3")
"""Hugging Face's names of the elements of betas."""


def parse(text: Any) -> dict[str, Any]:
    """Arguments by name. Values of text become numbers, true, false, null or (nested) lists where they look so; commas
    in brackets separate no items. Raises ValueError for what is neither text as `k=v,k2=v2` nor a mapping.
    """
    if text is None or text == "":
        return {}
    if isinstance(text, Mapping):
        return {str(key): value for key, value in text.items()}
    if not isinstance(text, str):
        raise ValueError("is neither text as k=v,k2=v2 nor a mapping")
    arguments = {}
    for item in _COMMA.split(text):
        name, equals, value = item.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ValueError(f"{item.strip() or 'an empty item'} is not NAME=VALUE")
        arguments[name.strip()] = literal(value.strip())
    return arguments


def literal(text: str) -> Any:
    """The value that a word of optim_args stands for."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text[:1] in "([" and text[-1:] in ")]" and text:
        return [literal(part.strip()) for part in _COMMA.split(text[1:-1]) if part.strip()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
