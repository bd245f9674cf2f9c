"""The schema seen as a tree: which keys exist, which are slots, and what a key may hold."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from . import OPTIONS, Config


@cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return get_type_hints(cls)


def hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a schema class."""
    return _hints(cls)


@cache
def sections() -> dict[str, type]:
    """The fixed sections: `train`, `data` ... and their classes."""
    return {name: hint for name, hint in hints(Config).items() if isinstance(hint, type) and is_dataclass(hint)}


@cache
def slots() -> tuple[str, ...]:
    """Keys that hold one object with a `_target_`: `model`, `data.train_dataset` ..."""
    nested = [f"{name}.{f.name}" for name, cls in sections().items() for f in fields(cls) if hints(cls)[f.name] is Any]
    return (*[name for name, hint in hints(Config).items() if hint is Any], *nested)


MULTI_SLOTS = ("logging.reporters", "callbacks")
"""Keys that hold named objects, each with a `_target_`."""


def slot_of(key: str) -> str | None:
    """The slot that ``key`` is or lies in: `model.width` -> `model`, `callbacks.a.b` -> `callbacks.a`."""
    for slot in slots():
        if key == slot or key.startswith(slot + "."):
            return slot
    for multi in MULTI_SLOTS:
        if key.startswith(multi + "."):
            return f"{multi}.{key.removeprefix(multi + '.').split('.')[0]}"
    return None


def group_of(key: str) -> str:
    """The group whose options fill the slot ``key``: `data` for `data.train_dataset`."""
    return key.split(".")[0]


@cache
def leaves() -> dict[str, type]:
    """Every full key that some choice of options offers, with the class it is declared in."""
    return dict(_leaves())


def _leaves() -> Iterator[tuple[str, type]]:
    for name, cls in sections().items():
        for f in fields(cls):
            yield f"{name}.{f.name}", cls
    for group, options in OPTIONS.items():
        for option, cls in options.items():
            prefix = {"reporters": f"logging.reporters.{option}", "callbacks": f"callbacks.{option}"}.get(group, group)
            prefixes = (
                ("data.train_dataset", "data.eval_dataset", "data.predict_dataset") if group == "data" else (prefix,)
            )
            for prefix in prefixes:
                for f in fields(cls):
                    yield f"{prefix}.{f.name}", cls


def options_with(key: str) -> str:
    """In words, the options of a slot that have this key: `parallel=fsdp or mesh`; empty where none has."""
    slot = slot_of(key)
    if slot is None or slot.startswith(MULTI_SLOTS):
        return ""
    group, leaf = group_of(slot), key.removeprefix(f"{slot}.")
    found = [name for name, cls in OPTIONS.get(group, {}).items() if leaf in {f.name for f in fields(cls)}]
    return f"{slot}={' or '.join(found)}" if found else ""


def allowed(hint: Any) -> str:
    """What a field of this type takes, in words: `a whole number or null`."""
    if get_origin(hint) in (Union, UnionType):
        parts = [allowed(arg) for arg in get_args(hint) if arg is not NoneType]
        if parts == ["a whole number", "a number"]:
            parts = ["a number"]
        return " or ".join(parts) + (" or null" if NoneType in get_args(hint) else "")
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(member.value) for member in hint)
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return f"a list, [a,b] ({allowed(item)})"
    if get_origin(hint) is dict or is_dataclass(hint):
        return "a mapping, {a: 1}"
    return {int: "a whole number", float: "a number", bool: "true, false", str: "text"}.get(hint, "anything")


def choices_of(key: str) -> list[str]:
    """The words that a key of an enum's type takes."""
    hint = hints(leaves()[key])[key.split(".")[-1]]
    kinds = [hint, *get_args(hint)]
    return [str(m.value) for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for m in kind]
