"""The overrides of a command line: parsed, and sorted into choices of options and values."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode

from ..errors import COMMAND_LINE, Problem
from .choices import swept, wrong_choice
from .draft import Draft

MAX_GROUP_LENGTH = 200
"""A longer key names no directory, and looking for one raises."""


def parse(lines: Sequence[str], parser: OverridesParser, draft: Draft) -> list[Override]:
    """The overrides that can be parsed; in a single run, those that list several values are refused."""
    parsed: dict[str, Override] = {}
    for line in lines:
        key = line.split("=")[0].lstrip("+~")
        try:
            override = parser.parse_override(line)
            name = override.key_or_group + (f"@{override.package}" if override.package else "")
            if not override.is_sweep_override():
                override.value()
        except Exception as error:  # Hydra raises HydraException, antlr and casts raise their own
            draft.refuse(key, _unreadable(line, error))
            continue
        if name in parsed:
            first = parsed[name].input_line
            what = "given twice" if first == line else f"given twice, the first time as {first}"
            draft.refuse(name, Problem(key=line, origin=COMMAND_LINE, what=what, fix="keep one of them"))
        elif override.is_sweep_override() and draft.mode == RunMode.RUN:
            draft.refuse(name, swept(override))
        else:
            parsed[name] = override
    return list(parsed.values())


def _unreadable(line: str, error: Exception) -> Problem:
    if "=" not in line:
        return Problem(key=line, origin=COMMAND_LINE, what="is not KEY=VALUE")
    what, key, value = f"cannot be parsed{_reason(str(error), line)}", *line.lstrip("+~").split("=", 1)
    quoted = value.strip("'\"").replace('"', '\\"')
    fix = f"'{key}=\"{quoted}\"' (special characters need both pairs of quotes)" if quoted else f"{key}=VALUE"
    return Problem(key=line, origin=COMMAND_LINE, what=what, fix=fix)


def _reason(text: str, line: str) -> str:
    """Hydra's reason, without the words of its parser generator."""
    text = text.split("\nSee https")[0].replace(f"Error when parsing index: 0, string: {line}", "")
    if found := re.search(r"while evaluating '(.*?)': (.*)", text):
        return f": {found[1]}: {found[2]}"
    if "<EOF>" in text and re.search(r"(input|at) '<EOF>'|no viable alternative at input", text):
        return ": it ends too early, or a bracket or quote is not closed"
    if ("token recognition error" in text and text.count("'") < 2) or "''" in text:
        return ": it ends too early, or a bracket or quote is not closed"
    if found := re.search(r"(?:token recognition error at|mismatched input|extraneous input|input):? '(.+?)'", text):
        return f" at {found[1]}"
    return f": {' '.join(text.split())[:120]}"


def sort(parsed: Sequence[Override], draft: Draft) -> tuple[list[Override], list[Override]]:
    """Choices of options, which are checked here, and values."""
    primary = draft.repo.load_config(draft.config_name)
    known = {str(d.group) for d in (primary.defaults_list or [] if primary else []) if isinstance(d, GroupDefault)}
    choices: list[Override] = []
    values: list[Override] = []
    for override in parsed:
        group = override.key_or_group
        if override.is_sweep_override():
            continue
        is_group = len(group) <= MAX_GROUP_LENGTH and group.split("/")[0] != "schema" and draft.repo.group_exists(group)
        if not is_group or isinstance(override.value(), dict):
            values.append(override)
        elif problem := wrong_choice(override, known, draft.repo):
            draft.refuse(group, problem)
        else:
            choices.append(_as_hydra_reads_it(override, known))
    return choices, values


def _as_hydra_reads_it(override: Override, known: set[str]) -> Override:
    """`experiment=null` chooses none of the options, and `+experiment=x` means `experiment=x`."""
    group = override.key_or_group
    if override.value() is None and not override.is_delete():
        return OverridesParser.create().parse_override(f"~{group}")
    if override.is_add() and group in known:
        return OverridesParser.create().parse_override(str(override.input_line).lstrip("+"))
    return override
