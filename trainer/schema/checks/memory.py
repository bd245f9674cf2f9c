"""Rules of `memory`: activation checkpointing and its options."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ..config import Config
from .sentences import excludes, needs, outside

OPTIONS = ("every_n_layers", "offload", "use_reentrant", "preserve_rng_state", "determinism_check", "debug")
SWITCH, KWARGS = "memory.activation_checkpointing", "memory.activation_checkpointing_kwargs"


def checkpointing(config: Config) -> Iterator[Problem]:
    """activation_checkpointing_kwargs are known, and of use; a cache of keys and values is not recomputed."""
    node, options = config.memory, config.memory.activation_checkpointing_kwargs
    if options and not node.activation_checkpointing:
        yield needs(KWARGS, options, f"{SWITCH}=true")
    for name, value in options.items():
        if name not in OPTIONS:
            yield outside(KWARGS, options, f"there is no option {name}", ", ".join(OPTIONS))
        elif name == "every_n_layers" and (type(value) is not int or value < 1):
            yield outside(KWARGS, options, f"every_n_layers={value}", "a whole number, at least 1")
        elif name not in ("every_n_layers", "determinism_check") and not isinstance(value, bool):
            yield outside(KWARGS, options, f"{name}={value}", "true, false")
    if node.use_cache and node.activation_checkpointing:
        yield excludes("memory.use_cache", True, f"{SWITCH}=true", fix="memory.use_cache=false")


RULES = (checkpointing,)
