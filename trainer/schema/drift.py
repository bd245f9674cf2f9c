"""Which keys of a config differ from those that a checkpoint was written with, and what each may do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from . import OPTIONS, Config
from .fields import Drift
from .tree import MULTI_SLOTS, group_of, sections, slots

TARGET = "_target_"
Values = dict[str, Any]
"""Full key of a leaf -> its value, plain."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose value is not the checkpoint's."""

    key: str
    """A slot whose class is another one stands for all of its keys."""
    drift: Drift
    before: Any
    """The checkpoint's; None where it has no such key."""
    now: Any


def leaves_of(tree: Mapping[str, Any]) -> dict[str, tuple[Any, Drift]]:
    """The leaves of a plain config, by full key, with what a change of each means."""
    return {key: (value, drift) for key, value, drift in _leaves("", tree, Drift.decision, Drift.decision)}


def decisive(tree: Mapping[str, Any]) -> Values:
    """The leaves that decide what is trained: those that are not free."""
    return {key: value for key, (value, drift) in leaves_of(tree).items() if drift is not Drift.free}


def changes(before: Mapping[str, Any], tree: Mapping[str, Any]) -> list[Change]:
    """How a config differs from the ``decisive`` leaves of another one.

    A field that only one of them has is not compared: another release wrote the other one.
    """
    now = leaves_of(tree)
    typed = {key.rpartition(".")[0] for key in now if _is_field(key, tree)}
    found: list[Change] = []
    for key in dict.fromkeys((*before, *now)):
        value, drift = now.get(key, (None, Drift.free))
        if key not in now:
            drift = _inherited(key, now)
        if drift is Drift.free or (key in before and key in now and before[key] == value):
            continue
        if (key in before) != (key in now) and key.rpartition(".")[0] in typed:
            continue
        found.append(Change(key.removesuffix("." + TARGET), drift, before.get(key), value))
    replaced = [c.key for c in found if f"{c.key}.{TARGET}" in before or f"{c.key}.{TARGET}" in now]
    return [c for c in found if not any(c.key.startswith(slot + ".") for slot in replaced)]


def covers(allowed: Iterable[str], key: str) -> bool:
    """Whether one of the ``allowed`` keys is ``key`` or holds it."""
    return any(key == entry or key.startswith(entry + ".") for entry in allowed)


def option_of(slot: str, target: str) -> str | None:
    """The option that puts this class into a slot, if it is one of ours: `sgd` for torch.optim.SGD."""
    for name, cls in OPTIONS.get(group_of(slot), {}).items():
        if name != slot and _target_of(cls) == target:
            return name
    return None


def _leaves(key: str, value: Any, drift: Drift, class_drift: Drift) -> Iterator[tuple[str, Any, Drift]]:
    if not isinstance(value, Mapping) or not value:
        yield key, value, class_drift if key.rpartition(".")[2] == TARGET else drift
        return
    declared = _fields_at(key, value)
    for name, child in value.items():
        metadata = declared.get(name, {})
        own = metadata.get("drift", drift)
        class_ = metadata.get("class_drift", class_drift if own is drift else own)
        yield from _leaves(f"{key}.{name}" if key else str(name), child, own, class_)


def _fields_at(key: str, node: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The metadata of the fields that the schema declares for the mapping at ``key``; empty for one of the user's."""
    cls = Config if not key else sections().get(key)
    if cls is None and key in slots():
        found = [c for c in OPTIONS.get(group_of(key), {}).values() if _target_of(c) == node.get(TARGET)]
        # several options may name one class: lomo and sgd
        cls = max(found, key=lambda c: len({f.name for f in fields(c)} & node.keys()), default=None)
    return {f.name: f.metadata for f in fields(cls)} if cls else {}


def _target_of(cls: type) -> Any:
    return next((f.default for f in fields(cls) if f.name == TARGET), None)


def _is_field(key: str, tree: Mapping[str, Any]) -> bool:
    """Whether the mapping that holds ``key`` is one whose keys the schema declares."""
    parent = key.rpartition(".")[0]
    if parent in sections() or not parent:
        return True
    if parent not in slots() or parent in MULTI_SLOTS:
        return False
    node: Any = tree
    for name in parent.split("."):
        node = node[name]
    return bool(_fields_at(parent, node))


def _inherited(key: str, now: Mapping[str, tuple[Any, Drift]]) -> Drift:
    """What a key that the config no longer has meant: as the keys beside it."""
    parent = key.rpartition(".")[0]
    beside = [
        drift for other, (_, drift) in now.items() if other.rpartition(".")[0] == parent and not other.endswith(TARGET)
    ]
    return beside[0] if beside else Drift.decision
