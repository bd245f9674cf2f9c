"""Choices of options, `optim=adamw` or `logging=[console,wandb]`: whether there is such an option, and who chose it."""

from __future__ import annotations

from collections.abc import Collection

from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override

from ..errors import COMMAND_LINE, Problem, show
from ..schema.tree import MULTI_SLOTS, allowed, group_of, hints, leaves, slot_of
from .sources import Repository

LISTS = {group_of(slot) for slot in MULTI_SLOTS}
"""Groups that take several options."""


def wrong_choice(override: Override, known: Collection[str], repo: Repository) -> Problem | None:
    """The problem of an override of a group; ``known`` are the groups of the primary config's defaults list."""
    group, value, line = override.key_or_group, override.value(), str(override.input_line)
    if override.is_delete() or value is None:
        return None
    if override.is_force_add():
        return Problem(key=line, origin=COMMAND_LINE, what=f"{group} is a group", fix=line.lstrip("+"))
    if override.package is not None and group in known:
        what = f"{group} has one place; an option cannot be put elsewhere"
        return Problem(key=line, origin=COMMAND_LINE, what=what, fix=f"{group}={show(value)}")
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and (plain := _plain_name(name)) != name:
            return repo.unknown_option(group, name, COMMAND_LINE, f"{group}={plain}" if plain else None)
        if not isinstance(name, str) or len(name) > 200 or not repo.config_exists(f"{group}/{name}"):
            return repo.unknown_option(group, show(name), COMMAND_LINE, _fix(group, show(name)))
    if isinstance(value, list) and group not in LISTS and group in known:
        what, fix = "takes one option, not a list", f"{group}={value[0] if value else 'null'}"
        return Problem(key=group, value=value, origin=COMMAND_LINE, what=what, fix=fix)
    if isinstance(value, list) and (problem := _wrong_list(group, value)):
        return problem
    if override.is_add() and group in known and group != "experiment":
        return Problem(key=line, origin=COMMAND_LINE, what=f"{group} is in the defaults list", fix=line.lstrip("+"))
    return None


def _plain_name(name: str) -> str:
    """An option's name without .yaml; empty for a path out of its group."""
    return "" if name.startswith("/") or ".." in name.split("/") else name.removesuffix(".yaml").removesuffix(".yml")


def _wrong_list(group: str, names: list[str]) -> Problem | None:
    rest = list(dict.fromkeys(name for name in names if name != "none"))
    what, fix = None, f"{group}=[{','.join(rest)}]"
    if len(names) > len(rest) > 0 and "none" in names:
        what = "lists none beside others"
    elif len(names) > len(rest):
        what = "lists an option twice"
    return Problem(key=group, value=names, origin=COMMAND_LINE, what=what, fix=fix) if what else None


def swept(override: Override) -> Problem:
    """The problem of a sweep's list of values in a single run."""
    line = str(override.input_line)
    key, _, value = line.partition("=")
    what = "lists several values, which only a sweep takes"
    guess = f"{key}=[{value}]" if _takes_list(key) else None
    return Problem(key=line, origin=COMMAND_LINE, what=what, suggestion=guess, fix=f"-m {line}")


def _takes_list(key: str) -> bool:
    if (cls := leaves().get(key)) is None:
        return key in LISTS
    words = allowed(hints(cls)[key.rpartition(".")[2]])
    return "list" in words or "anything" in words


def chosen_at(default: ResultDefault, package: str, typed: Collection[str], repo: Repository) -> str | None:
    """Where the option that fills ``package`` was chosen: the command line (``typed`` are the groups chosen there), or
    FILE:LINE of a defaults list. A schema that a group's own option brings along was chosen with that option."""
    path, parent = str(default.config_path), default.parent or ""
    if path.startswith("schema/") and group_of(package) == group_of(parent.replace("/", ".")):
        path = parent
    group, _, option = path.rpartition("/")
    if group in typed:
        return COMMAND_LINE
    entries = sorted(repo.entries(group, option), key=lambda entry: "override" not in entry[0])
    return entries[0][1] if entries else None


def _fix(group: str, name: str) -> str | None:
    """Hugging Face's word for one of our options, or a class where an option is expected."""
    from ..schema import huggingface

    target = f"{group}._target_={name}" if "." in name and slot_of(group) else None
    return huggingface.choice(group, name) or target
