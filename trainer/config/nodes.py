"""OmegaConf's nodes as they stand, nothing resolved: its public functions look at values only."""

from __future__ import annotations

from typing import Any, TypeGuard

from omegaconf import DictConfig, flag_override


def child(node: Any, name: Any) -> Any:
    """The node at a key or index, references unresolved; None where there is none."""
    return node._get_node(name)


def select(cfg: DictConfig, key: str) -> Any:
    """The node at a dotted key, unresolved; None where there is none."""
    node: Any = cfg
    for part in key.split("."):
        if not has_keys(node):
            return None
        node = child(node, part)
    return node


def has_keys(node: Any) -> TypeGuard[DictConfig]:
    """Whether it is a mapping, neither null nor `???` nor a reference."""
    return has_value(node) and not is_reference(node)


def has_value(node: Any) -> TypeGuard[DictConfig]:
    """Whether it is a mapping or a reference to one, neither null nor `???`."""
    return isinstance(node, DictConfig) and not is_none(node) and not is_missing(node)


def is_none(node: Any) -> bool:
    return bool(node._is_none())


def is_missing(node: Any) -> bool:
    """Whether its value is `???`."""
    return bool(node._is_missing())


def is_reference(node: Any) -> bool:
    """Whether its value is an interpolation, `${...}`."""
    return bool(node._is_interpolation())


def raw(node: Any) -> Any:
    """The value as it was written."""
    return node._value()


def strip_defaults(node: Any) -> None:
    """Remove the defaults lists that typed nodes still carry (Hydra's HydraConf)."""
    if has_value(node):
        with flag_override(node, ["readonly", "struct"], False):
            if node._get_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"):
                node._set_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS", None)
                node.pop("defaults", None)
        for _, value in node.items_ex(resolve=False):
            strip_defaults(value)
