"""The configs of a defaults list, merged file by file onto the typed root."""

from __future__ import annotations

import re

from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from ..errors import COMMAND_LINE, Problem, closest, show
from ..schema import Config
from . import hydra, nodes
from .assign import Assigner
from .choices import chosen_at
from .draft import Choices, Draft
from .examine import flat
from .files import YamlFile
from .hydra import Overrides
from .sources import FileResult, conf_directory


def merge(choices: list[Override], draft: Draft) -> None:
    """Merge what the primary config and the command line's ``choices`` name; broken files are refused."""
    expanded = _expand(choices, draft)
    if expanded is None and choices:
        choices, expanded = [], _expand([], draft)
    if expanded is not None:
        defaults, draft.choices = expanded
        with flag_override(draft.cfg, "no_deepcopy_set_nodes", True):
            draft.cfg.merge_with(OmegaConf.structured(Config))
            typed = {choice.key_or_group for choice in choices}
            assign = Assigner(draft.cfg, draft.origins, draft.refuse, typed)
            for default in defaults:
                _merge(default, assign, typed, draft)
        nodes.strip_defaults(draft.cfg)
    draft.problems += draft.repo.problems
    draft.wrong += [path.rpartition("/")[0] or path for path in draft.repo.broken]


def _expand(choices: list[Override], draft: Draft) -> tuple[list[ResultDefault], Choices] | None:
    """The whole defaults list, and the option chosen of each group; None where a list is broken."""
    try:
        overrides = Overrides(repo=draft.repo, overrides_list=choices)
        skip_missing = draft.mode == RunMode.MULTIRUN
        defaults = hydra.defaults_of(draft.config_name, overrides, draft.repo, skip_missing=skip_missing)
        for key, meta in overrides.override_metadata.items():
            if not meta.used:
                draft.refuse(key, _unused_choice(key, meta.containing_config_path, overrides, draft))
        overrides.ensure_deletions_used()
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError, AssertionError) as error:
        what, fix = "the defaults lists include each other" if isinstance(error, RecursionError) else flat(error), None
        if found := re.match(r"(Multiple values for (\S+))\. To override a value use 'override \S+: (.*)'", what):
            what, fix = found[1], f"- override /{found[2]}: {found[3]}"
        draft.problems.append(Problem(key="defaults", origin=_culprit(draft), what=what, fix=fix))
        return None
    return defaults, overrides.known_choices


def _merge(default: ResultDefault, assign: Assigner, typed: set[str], draft: Draft) -> None:
    loaded = draft.repo.load_config(str(default.config_path))
    if default.config_path in draft.repo.broken or loaded is None:
        return
    assert isinstance(loaded.config, DictConfig)  # the bounded reader takes nothing else
    file = loaded.file if isinstance(loaded, FileResult) else None
    package = default.package if default.package is not None else loaded.header["package"]
    if file is not None:
        if not default.primary and "searchpath" in (loaded.config.get("hydra") or {}):
            what, fix = "only the primary config may set it", "hydra.searchpath=[PATH] on the command line"
            problem = Problem(key="hydra.searchpath", origin=file.name, what=what, fix=fix)
            draft.refuse("hydra.searchpath", problem)
        if file.lines and package and (misplaced := _misplaced(default, package, file, draft)):
            draft.refuse(package, misplaced)
            return
    assign.merge(loaded.config, package or "", file)
    if package:
        draft.origins.choose(package, chosen_at(default, package, typed, draft.repo))


def _misplaced(default: ResultDefault, package: str, file: YamlFile, draft: Draft) -> Problem | None:
    # keys(): `in` denies a slot that is still `???`
    if package.split(".")[0] in draft.cfg.keys():  # noqa: SIM118
        return None
    what = f"its keys would go to {package}, which is not a section"
    fix = f"'# @package _global_' as the first line of {file.name}"
    return Problem(key=str(default.config_path), origin=f"{file.name}:1", what=what, fix=fix)


def _unused_choice(key: str, file: str | None, overrides: Overrides, draft: Draft) -> Problem:
    chosen = show(overrides.override_choices[key])
    if file is None:
        what = f"the group {key} is in no defaults list"
        return Problem(key=key, value=chosen, origin=COMMAND_LINE, what=what, fix=f"+{key}={chosen}")
    what = f"overrides {key}, which is in no defaults list"
    known = [group for group in overrides.known_choices if "@" not in group and not group.startswith("hydra/")]
    group = key.split("@")[0].rpartition("/")[2]
    guess = group if group in known else closest(group, known)
    fix, allowed = (f"- override /{guess}: {chosen}", None) if guess else (None, ", ".join(known))
    return Problem(key=key, value=chosen, origin=_where(file, draft), what=what, allowed=allowed, fix=fix)


def _culprit(draft: Draft) -> str:
    """The file whose defaults list is to blame: the last one read that is not the package's."""
    own = [file for file in draft.repo.files() if file.choices and not file.path.is_relative_to(conf_directory())]
    return own[-1].name if own else _where(draft.config_name, draft)


def _where(config_path: str, draft: Draft) -> str:
    result = draft.repo.load_config(config_path)
    return result.file.name if isinstance(result, FileResult) and result.file else config_path
