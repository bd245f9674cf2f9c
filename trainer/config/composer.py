"""From overrides to one typed Config: Hydra's composition, step by step, so that every problem is found at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.defaults_list import Overrides, _create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import GroupDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..build import calls
from ..errors import COMMAND_LINE, ConfigError, Problem, show
from ..schema import Config
from ..schema.checks import check
from ..schema.tree import slots
from . import hydra as hydra_settings
from . import inline, sources
from .assign import Assigner
from .choices import chosen_at, swept, wrong_choice
from .examine import flat, replaced_sections, unresolved, without_target
from .origins import Origins
from .sources import FileResult, Repository

CONFIG_NAME = "config"
PACKAGED = Path(__file__).parents[1] / "conf"
"""conf/ inside a wheel; a checkout has it beside the package."""


class InvalidConfig(ConfigError, ConfigCompositionException):
    """Hydra's own features (completion, --info) know it as a failed composition."""


@dataclass(slots=True)
class Composition:
    """What came out of the overrides, and what is wrong with it."""

    cfg: DictConfig
    """With Hydra's node; wrong overrides are left out."""
    config: Config | None
    """None when ``cfg`` cannot be converted: then ``problems`` says why."""
    origins: Origins
    problems: list[Problem] = field(default_factory=list)


def conf_directory() -> Path:
    """The options that come with the package."""
    return PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"


def search_path(config_dir: str | None = None) -> ConfigSearchPath:
    """Hydra's, the working directory's `conf`, the package's, --config-dir's, then the schema."""
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    own = Path("conf").resolve()
    if own.is_dir() and own != conf_directory().resolve():
        path.append("working directory", f"file://{own}")
    path.append("main", f"file://{conf_directory()}")
    if config_dir is not None:
        path.append("command-line", f"file://{os.path.abspath(config_dir)}")
    path.append("schema", "structured://")
    return path


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
    return Loader(search_path(config_dir))


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
        return [o for o in options if o != "_dummy_empty_config_"]

    def compose(self, config_name: str, overrides: list[str], mode: RunMode) -> Composition:
        """Compose ``config_name`` with ``overrides``; in a multirun's master config the swept ones are left out."""
        return _Composer(self, config_name, mode).compose(overrides)


class _Composer:
    """One composition in progress."""

    def __init__(self, loader: Loader, config_name: str, mode: RunMode) -> None:
        self.loader, self.config_name, self.mode = loader, config_name, mode
        self.repo = Repository(loader.repository)
        self.problems: list[Problem] = []
        self.wrong: list[str] = []
        """Keys and groups whose override was refused: rules that look at them are not reported on top."""
        self.origins = Origins()
        self.cfg: DictConfig = OmegaConf.create({"hydra": {}})

    def compose(self, lines: list[str]) -> Composition:
        parsed = self._parse(lines)
        if not self._open(parsed):
            return Composition(self.cfg, None, self.origins, self.problems)
        groups, values = self._sort(parsed)
        self._merge_files(groups)
        self.problems += self.repo.problems
        self.wrong += [path.rpartition("/")[0] or path for path in self.repo.broken]
        if "run" not in self.cfg.hydra:  # Hydra's own part could not be composed
            return Composition(self.cfg, None, self.origins, self.problems)
        self._assign(values)
        for problem in replaced_sections(self.cfg):
            self._refuse(problem.key, problem)
        self._complete_hydra(parsed)
        self.problems += without_target(self.cfg, self.repo)
        for problem in inline.deepspeed_file(self.cfg, self.origins):
            self._refuse(problem.key, problem)
        config = self._convert()
        if config is not None:
            for problem in [*check.check(config), *calls.check_names(config)]:
                if not any(_within(key, wrong) for key in (problem.key, *problem.related) for wrong in self.wrong):
                    self.problems.append(problem)
        return Composition(self.cfg, config, self.origins, self.origins.fill(self.problems))

    def _refuse(self, key: str, problem: Problem) -> None:
        self.problems.append(problem)
        self.wrong.append(key)

    def _parse(self, lines: list[str]) -> list[Override]:
        parser = OverridesParser.create(config_loader=self.loader)
        parsed: dict[str, Override] = {}
        for line in lines:
            key = line.split("=")[0].lstrip("+~")
            try:
                override = parser.parse_override(line)
                name = override.key_or_group + (f"@{override.package}" if override.package else "")
                if not override.is_sweep_override():
                    override.value()
            except Exception as error:  # Hydra raises HydraException, antlr and casts raise their own
                reason = str(error).split("\nSee https")[0].replace(f"Error when parsing index: 0, string: {line}", "")
                what = "is not KEY=VALUE" if "=" not in line else f"cannot be parsed: {' '.join(reason.split())[:120]}"
                fix = f"'{key}=\"VALUE\"' (quotes around values with special characters)" if "=" in line else None
                self._refuse(key, Problem(key=line, origin=COMMAND_LINE, what=what, fix=fix))
                continue
            if name in parsed:
                first = parsed[name].input_line
                what = "given twice" if first == line else f"given twice, the first time as {first}"
                self._refuse(name, Problem(key=line, origin=COMMAND_LINE, what=what, fix="keep one of them"))
            elif override.is_sweep_override() and self.mode == RunMode.RUN:
                self._refuse(name, swept(override))
            else:
                parsed[name] = override
        return list(parsed.values())

    def _open(self, parsed: list[Override]) -> bool:
        """Set the search path and see that the primary config exists."""
        for source in self.loader.get_sources():
            if source.provider == "command-line" and not source.available():
                what = "no such directory"
                self.problems.append(Problem(key=f"--config-dir={source.path}", origin=COMMAND_LINE, what=what))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a missing directory is a problem below, not a warning
            try:
                self.loader._process_config_searchpath(self.config_name, parsed, self.repo)
            except ConfigCompositionException as error:
                self._refuse("hydra.searchpath", Problem(key="hydra.searchpath", origin=COMMAND_LINE, what=str(error)))
        for source in self.repo.get_sources():
            if source.provider.startswith("hydra.searchpath") and not source.available():
                what = f"{source.scheme()}://{source.path} does not exist"
                self.problems.append(Problem(key="hydra.searchpath", origin=COMMAND_LINE, what=what))
        if self.config_name.startswith("schema/") or not self.repo.config_exists(self.config_name):
            names = self.repo.get_group_options("")
            names = [n for n in names if n != "_dummy_empty_config_"]
            what = "no such primary config"
            key = f"--config-name={self.config_name}"
            self.problems.append(Problem(key=key, origin=COMMAND_LINE, what=what, allowed=", ".join(names)))
            return False
        return True

    def _sort(self, parsed: list[Override]) -> tuple[list[Override], list[Override]]:
        """Split into choices of options, which are checked here, and values."""
        primary = self.repo.load_config(self.config_name)
        known = {str(d.group) for d in (primary.defaults_list or [] if primary else []) if isinstance(d, GroupDefault)}
        groups: list[Override] = []
        values: list[Override] = []
        for override in parsed:
            group = override.key_or_group
            if override.is_sweep_override():
                continue
            # a key of 200 characters is no directory's name, and too long to look for one
            is_group = len(group) <= 200 and group.split("/")[0] != "schema" and self.repo.group_exists(group)
            if not is_group or isinstance(override.value(), dict):
                values.append(override)
            elif problem := wrong_choice(override, known, self.repo):
                self._refuse(group, problem)
            else:
                if override.value() is None and not override.is_delete():  # experiment=null: none of them
                    override = OverridesParser.create().parse_override(f"~{group}")
                elif override.is_add() and group in known:
                    # +experiment=x means experiment=x
                    override = OverridesParser.create().parse_override(str(override.input_line).lstrip("+"))
                groups.append(override)
        return groups, values

    def _merge_files(self, groups: list[Override]) -> None:
        """Hydra's defaults list, merged file by file onto the typed root."""
        try:
            overrides = Overrides(repo=self.repo, overrides_list=groups)
            defaults, _ = _create_defaults_list(
                self.repo, self.config_name, overrides, prepend_hydra=True, skip_missing=self.mode == RunMode.MULTIRUN
            )
            for key, meta in overrides.override_metadata.items():
                if not meta.used:
                    self._refuse(key, self._unused_choice(key, meta.containing_config_path, overrides))
            overrides.ensure_deletions_used()
        except (HydraException, OmegaConfBaseException, ValueError, RecursionError, AssertionError) as error:
            what = "the defaults lists include each other" if isinstance(error, RecursionError) else flat(error)
            self.problems.append(Problem(key="defaults", origin=self._where(self.config_name), what=what))
            if not groups:
                return
            return self._merge_files([])
        self.choices = overrides.known_choices
        with flag_override(self.cfg, "no_deepcopy_set_nodes", True):
            self.cfg.merge_with(OmegaConf.structured(Config))
            typed = {o.key_or_group for o in groups}
            assign = Assigner(self.cfg, self.origins, self._refuse, typed)
            for default in defaults:
                loaded = self.repo.load_config(str(default.config_path))
                if default.config_path in self.repo.broken or loaded is None:
                    continue
                assert isinstance(loaded.config, DictConfig)  # the careful reader takes nothing else
                file = loaded.file if isinstance(loaded, FileResult) else None
                package = default.package if default.package is not None else loaded.header["package"]
                if file is not None and not default.primary and "searchpath" in (loaded.config.get("hydra") or {}):
                    what, fix = "only the primary config may set it", "hydra.searchpath=[PATH] on the command line"
                    self._refuse(
                        "hydra.searchpath", Problem(key="hydra.searchpath", origin=file.name, what=what, fix=fix)
                    )
                # keys(): `in` denies a slot that is still `???`
                if file is not None and file.lines and package and package.split(".")[0] not in self.cfg.keys():  # noqa: SIM118
                    what = f"its keys would go to {package}, which is no section"
                    fix = f"'# @package _global_' as the first line of {file.name}"
                    key = str(default.config_path)
                    self._refuse(package, Problem(key=key, origin=f"{file.name}:1", what=what, fix=fix))
                    continue
                assign.merge(loaded.config, package or "", file)
                if package:
                    self.origins.choose(package, chosen_at(default, package, typed, self.repo))
        _strip_defaults(self.cfg)

    def _unused_choice(self, key: str, file: str | None, overrides: Overrides) -> Problem:
        chosen = show(overrides.override_choices[key])
        if file is None:
            what = f"the group {key} is in no defaults list"
            return Problem(key=key, value=chosen, origin=COMMAND_LINE, what=what, fix=f"+{key}={chosen}")
        what = f"overrides {key}, which is in no defaults list"
        return Problem(
            key=key, value=chosen, origin=self._where(file), what=what, allowed=", ".join(overrides.known_choices)
        )

    def _where(self, config_path: str) -> str:
        result = self.repo.load_config(config_path)
        return result.file.name if isinstance(result, FileResult) and result.file else config_path

    def _assign(self, values: list[Override]) -> None:
        OmegaConf.set_struct(self.cfg, True)
        OmegaConf.set_readonly(self.cfg.hydra, False)
        assign = Assigner(self.cfg, self.origins, self._refuse)
        assign.open_foreign()
        # a slot's new target first: on one command line the order of its arguments does not matter
        for override in sorted(values, key=lambda o: not assign.replaces_slot(o.key_or_group, o.value())):
            if override.key_or_group.split(".")[0] != "hydra":
                assign.override(override)
                continue
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], self.cfg)
                self.origins.set(override.key_or_group, override.value(), COMMAND_LINE)
            except (HydraException, OmegaConfBaseException) as error:
                reason = flat(error.__cause__ or error).split(" full_key:")[0]
                self._refuse(
                    override.key_or_group, Problem(key=str(override.input_line), origin=COMMAND_LINE, what=reason)
                )

    def _complete_hydra(self, parsed: list[Override]) -> None:
        """Fill Hydra's node as its own loader does, and make `${hydra:...}` work."""
        hydra = self.cfg.hydra
        for override in parsed:
            (hydra.overrides.hydra if override.is_hydra_override() else hydra.overrides.task).append(
                override.input_line
            )
        with open_dict(hydra):
            hydra.runtime.choices.update(self.choices)
            for name in hydra.job.env_copy:
                hydra.job.env_set[name] = os.environ.get(name, "")
        from hydra import __version__
        from hydra._internal.config_loader_impl import get_overrides_dirname
        from hydra.conf import ConfigSourceInfo

        hydra.runtime.version = __version__
        hydra.runtime.version_base = version.getbase()
        hydra.runtime.cwd = os.getcwd()
        hydra.runtime.config_sources = [
            ConfigSourceInfo(path=s.path, schema=s.scheme(), provider=s.provider) for s in self.repo.get_sources()
        ]
        if "name" not in hydra.job:
            hydra.job.name = JobRuntime.instance().get("name")
        settings = hydra.job.config.override_dirname
        hydra.job.override_dirname = get_overrides_dirname(
            overrides=[o for o in parsed if not o.is_hydra_override()],
            kv_sep=settings.kv_sep,
            item_sep=settings.item_sep,
            exclude_keys=settings.exclude_keys,
        )
        hydra.job.config_name = self.config_name
        HydraConfig.instance().set_config(self.cfg)
        self.problems += hydra_settings.check(hydra, self.mode)

    def _convert(self) -> Config | None:
        try:
            return to_config(self.cfg)
        except Exception as error:  # a resolver may raise anything; look for every value that cannot be had
            found = list(unresolved(self.cfg, self.repo))
            self.problems += [p for p in found if not any(_within(p.key, wrong) for wrong in self.wrong)]
            if not self.problems:
                self.problems.append(Problem(key=str(getattr(error, "full_key", None) or "config"), what=flat(error)))
        # with the slots among them empty the other values can still be checked
        empty = [p.key for p in found if p.key in slots()]
        self.wrong += empty
        if len(empty) < len(found):
            return None
        for key in empty:
            OmegaConf.update(self.cfg, key, None)
        return to_config(self.cfg)


def to_config(cfg: DictConfig) -> Config:
    """The typed tree of a composed config, every interpolation resolved."""
    nodes = {str(key): cfg._get_node(key) for key in cfg if key != "hydra"}
    plain = {k: OmegaConf.to_object(n) if isinstance(n, DictConfig | ListConfig) else cfg[k] for k, n in nodes.items()}
    return Config(**plain)  # type: ignore[arg-type]


def _strip_defaults(node: Any) -> None:
    """Remove the defaults lists that typed nodes still carry (Hydra's HydraConf)."""
    if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
        with flag_override(node, ["readonly", "struct"], False):
            if node._get_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"):
                node._set_flag("HYDRA_REMOVE_TOP_LEVEL_DEFAULTS", None)
                node.pop("defaults", None)
        for _, value in node.items_ex(resolve=False):
            _strip_defaults(value)


def _within(key: str, wrong: str) -> bool:
    return key == wrong or key.startswith(wrong + ".") or wrong.startswith(key + ".")
