"""Whether an override picks an option that its group has: `optim=adamw`, `logging=[console,wandb]`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hydra.core.override_parser.types import Override

from .config_sources import Repository
from .problems import COMMAND_LINE, Problem, show
from .schema.tree import MULTI_SLOTS, group_of, slot_of

LISTS = {group_of(slot) for slot in MULTI_SLOTS}
"""Groups that take several options."""


def wrong_choice(override: Override, known: Collection[str], repo: Repository) -> Problem | None:
    """The problem of an override of a group; ``known`` are the groups of the primary config's defaults list."""
    group, value, line = override.key_or_group, override.value(), str(override.input_line)
    if override.is_delete() or value is None:
        return None
    if override.is_force_add():
        return Problem(key=line, origin=COMMAND_LINE, what=f"{group} is a group", fix=line.lstrip("+"))
    for name in value if isinstance(value, list) else [value]:
        if not isinstance(name, str) or len(name) > 200 or not repo.config_exists(f"{group}/{name}"):
            problem = repo.unknown_option(group, show(name), COMMAND_LINE, _fix(group, show(name)))
            reason = _reason(group, show(name))
            return replace(problem, what=reason, suggestion=None) if reason else problem
    if isinstance(value, list) and group not in LISTS and group in known:
        what, fix = "takes one option, not a list", f"{group}={value[0] if value else 'null'}"
        return Problem(key=group, value=value, origin=COMMAND_LINE, what=what, fix=fix)
    if override.is_add() and group in known and group != "experiment":
        return Problem(key=line, origin=COMMAND_LINE, what=f"{group} is in the defaults list", fix=line.lstrip("+"))
    return None


def _fix(group: str, name: str) -> str | None:
    """Hugging Face's word for one of our options, or a class where an option is expected."""
    from .schema import huggingface

    target = f"{group}._target_={name}" if "." in name and slot_of(group) else None
    return huggingface.choice(group, name) or target


def _reason(group: str, name: str) -> str | None:
    """Why one of Hugging Face's optimizers is no option."""
    from .schema import huggingface

    return huggingface.NO_OPTIMIZER.get(name) if group == "optim" else None
