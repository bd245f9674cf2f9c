"""From overrides to one typed Config: Hydra's composition, step by step, so that every problem is found at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra import version
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..build import calls, policy
from ..errors import COMMAND_LINE, ConfigError, Problem
from ..schema import Config
from ..schema.checks.check import check
from ..schema.tree import slots
from . import defaults, hydra, inline, machine, overrides, settings, sources, trust
from .assign import Assigner
from .conversion import convert
from .draft import Draft
from .examine import flat, replaced_sections, without_target
from .hydra import ConfigLoaderImpl
from .origins import Origins
from .sources import Repository

CONFIG_NAME = "config"
PLACEHOLDER = "_dummy_empty_config_"
"""An option that Hydra lists in every group, and that is none."""


class InvalidConfig(ConfigError, ConfigCompositionException):
    """Hydra's own features (completion, --info) know it as a failed composition."""


@dataclass(slots=True)
class Composition:
    """What came out of the overrides, and what is wrong with it."""

    cfg: DictConfig
    """With Hydra's node; refused overrides are left out."""
    config: Config | None
    """None when ``cfg`` cannot be converted: then ``problems`` says why."""
    origins: Origins
    problems: list[Problem] = field(default_factory=list)


def compose(
    overrides: Sequence[str] = (),
    *,
    config_name: str = CONFIG_NAME,
    config_dir: str | None = None,
    mode: RunMode = RunMode.RUN,
) -> Composition:
    """Compose, convert and check. Nothing is written and torch is not imported."""
    return make_loader(config_dir).compose(config_name, list(overrides), mode)


def make_loader(config_dir: str | None = None) -> Loader:
    """A loader over the search path; Hydra's `Hydra` object takes it as it is."""
    version.setbase("1.3")
    setup_globals()
    sources.register()
    if JobRuntime.instance().get("name") is None:
        JobRuntime.instance().set("name", "train")
    return Loader(sources.search_path(config_dir))


class Loader(ConfigLoaderImpl):
    """Hydra's loader with a typed, closed root, origins, and all problems at once."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        if config_name is None:  # --hydra-help looks at Hydra's own config alone
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        composition = self.compose(config_name, overrides, run_mode)
        if composition.problems:
            raise InvalidConfig(composition.problems)
        return composition.cfg

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        options = super().get_group_options(group_name, results_filter, config_name, overrides)
        return [option for option in options if option != PLACEHOLDER]

    def compose(self, config_name: str, lines: list[str], mode: RunMode) -> Composition:
        """Compose ``config_name`` with overrides; a multirun's master config leaves out the swept ones."""
        draft = Draft(config_name, mode, Repository(self.repository))
        parsed = overrides.parse(lines, OverridesParser.create(config_loader=self), draft)
        config = None
        if _open(self, parsed, draft):
            choices, values = overrides.sort(parsed, draft)
            defaults.merge(choices, draft)
            if "run" in draft.cfg.hydra:  # else Hydra's own part could not be composed
                _assign(values, draft)
                config = _finish(parsed, draft)
        draft.problems[:] = [_as_removed(problem, parsed) for problem in draft.problems]
        return Composition(draft.cfg, config, draft.origins, draft.origins.fill(draft.problems))


def _as_removed(problem: Problem, parsed: list[Override]) -> Problem:
    """The problem of a slot that the command line has emptied, in place of what lacks because of it."""
    group = problem.key.split(".")[0]
    lines = [str(o.input_line) for o in parsed if o.key_or_group == group and (o.is_delete() or o.value() is None)]
    if not lines or problem.origin == COMMAND_LINE or problem.key not in slots():
        return problem
    if not any(word in problem.what for word in ("has no value", "has no _target_")):
        return problem
    default = DEFAULTS.get(group)
    fix = f"{group}={default}" if default else None
    return Problem(key=lines[0], origin=COMMAND_LINE, what=f"every run needs {_ARTICLES.get(group, group)}", fix=fix)


_ARTICLES = {"model": "a model", "task": "a task", "optim": "an optimizer", "parallel": "an engine"}
_ARTICLES |= {"scheduler": "a schedule", "data": "a training set"}
DEFAULTS = {"model": "gpt", "task": "language_modeling", "optim": "adamw_fused", "parallel": "ddp", "data": "text"}
DEFAULTS |= {"scheduler": "constant"}
"""What to choose where a slot was emptied; conf/config.yaml's, and the schedule that changes nothing."""


def _open(loader: Loader, parsed: list[Override], draft: Draft) -> bool:
    """Set the search path, and see whether the primary config exists."""
    for source in loader.get_sources():
        if source.provider == sources.FROM_FLAG and not source.available():
            key = f"--config-dir={source.path}"
            draft.problems.append(Problem(key=key, origin=COMMAND_LINE, what="no such directory"))
    name = draft.config_name
    readable = len(name) <= overrides.MAX_GROUP_LENGTH and "\0" not in name
    if not readable:
        draft.problems.append(Problem(key=f"--config-name={name}", origin=COMMAND_LINE, what="is too long for a name"))
        return False
    key = "hydra.searchpath"
    try:
        hydra.extend_search_path(loader, draft.config_name, parsed, draft.repo)
    except ConfigCompositionException as error:
        draft.refuse(key, Problem(key=key, origin=COMMAND_LINE, what=str(error)))
    for source in draft.repo.get_sources():
        if source.provider.startswith(key) and not source.available():
            what = f"{source.scheme()}://{source.path} does not exist"
            draft.problems.append(Problem(key=key, origin=COMMAND_LINE, what=what))
    if not name.startswith("schema/") and draft.repo.config_exists(name):
        return True
    names = ", ".join(option for option in draft.repo.get_group_options("") if option != PLACEHOLDER)
    key, what = f"--config-name={name}", "no such primary config"
    draft.problems.append(Problem(key=key, origin=COMMAND_LINE, what=what, allowed=names))
    return False


def _assign(values: list[Override], draft: Draft) -> None:
    """The values of the command line, over those of the files."""
    OmegaConf.set_struct(draft.cfg, True)
    OmegaConf.set_readonly(draft.cfg.hydra, False)
    assign = Assigner(draft.cfg, draft.origins, draft.refuse)
    assign.open_foreign()
    # a slot's new target first: on one command line the order of its arguments does not matter
    for override in sorted(values, key=lambda o: not assign.replaces_slot(o.key_or_group, o.value())):
        key = override.key_or_group
        if key.split(".")[0] != "hydra":
            assign.override(override)
            continue
        try:
            hydra.apply_override(override, draft.cfg)
            draft.origins.set(key, override.value(), COMMAND_LINE)
        except (HydraException, OmegaConfBaseException) as error:
            reason = flat(error.__cause__ or error).split(" full_key:")[0]
            draft.refuse(key, Problem(key=str(override.input_line), origin=COMMAND_LINE, what=reason))


def _finish(parsed: list[Override], draft: Draft) -> Config | None:
    """Convert and check what was composed."""
    for problem in replaced_sections(draft.cfg):
        draft.refuse(problem.key, problem)
    settings.complete(parsed, draft)
    draft.problems += settings.check(draft.cfg.hydra, draft.mode)
    draft.problems += without_target(draft.cfg, draft.repo)
    for problem in inline.deepspeed_file(draft.cfg, draft.origins):
        draft.refuse(problem.key, problem)
    for problem in trust.check(draft):
        draft.refuse(problem.key, problem)
    config = convert(draft)
    if config is not None:
        if not draft.is_refused(policy.ALLOW):
            policy.permit(config.run.allow_packages)
        for problem in [*check(config, machine.RULES), *calls.check_names(config)]:
            if not any(map(draft.is_refused, (problem.key, *problem.related))):
                draft.problems.append(problem)
    return config
