"""Hydra's view of config files, through yaml_files' careful reader.

With compose.py the only place that touches Hydra's internals.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository

# importing the first two stores hydra/launcher=basic and hydra/sweeper=basic: no scan for plugins is needed
from hydra._internal.core_plugins import basic_launcher  # noqa: F401
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.defaults_list import _create_interpolation_map
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problem, closest
from ..schema import OPTIONS
from . import files
from .files import BadYaml, YamlFile


@dataclass
class SweeperConf(BasicSweeperConf):
    """hydra/sweeper=basic, with the number of trials that intervals need."""

    n_trials: int | None = None
    """Trials of a sweep with an interval(); 20 if not given."""


@dataclass
class FileResult(ConfigResult):
    """A loaded config that remembers the file it came from."""

    file: YamlFile | None = None


def _result(source: ConfigSource, path: Path) -> FileResult:
    file = files.read(path)
    try:
        config = OmegaConf.create(file.content)
    except OmegaConfBaseException as error:
        line = next(iter(file.lines.values()), None)
        raise BadYaml(path, line, f"holds a value that cannot be read: {str(error).splitlines()[0]}") from None
    return FileResult(
        config=config,
        path=f"{source.scheme()}://{source.path}",
        provider=source.provider,
        header=ConfigSource._get_header_dict(file.header),
        file=file,
    )


class _File(FileConfigSource):
    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(os.path.realpath(os.path.join(self.path, self._normalize_file_name(config_path))))
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        return _result(self, path)


class _Package(ImportlibResourcesConfigSource):
    def _read_config(self, res: Any) -> ConfigResult:
        return _result(self, res) if isinstance(res, Path) else super()._read_config(res)


class _Schema(StructuredConfigSource):
    """The schema's options as /schema/<group>/<name>, built when one is asked for and not listed among the groups."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = config_path.removesuffix(".yaml")
        if _option(path) is not None:
            group, _, name = path.rpartition("/")
            self.store.store(group=group, name=name, node=_option(path), provider="trainer")
        return super().load_config(config_path)

    def is_config(self, config_path: str) -> bool:
        return _option(config_path) is not None or super().is_config(config_path)


def _option(path: str) -> type | None:
    root, _, rest = path.partition("/")
    group, _, name = rest.partition("/")
    return OPTIONS.get(group, {}).get(name) if root == "schema" else None


def _interpolation_map(overrides: Any, defaults: Any, self_added: bool, build: Any = _create_interpolation_map) -> Any:
    """Hydra's, built only for a defaults list that has `${...}` in it: it took a quarter of every composition."""
    return build(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None


def register() -> None:
    """Make the careful sources Hydra's."""
    for source in (_File, _Package, _Schema):
        # the plugin scan registers Hydra's own class for the scheme later and accepts one of the same name
        source.__name__ = source.__bases__[0].__name__
        SourcesRegistry.instance().types[source.scheme()] = source
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=SweeperConf, provider="hydra")
    defaults_list._create_interpolation_map = _interpolation_map  # type: ignore[assignment]


class Repository(CachingConfigRepository):
    """Loads configs; what cannot be loaded becomes a problem and an empty config, so that the rest is looked at too."""

    def __init__(self, delegate: ConfigRepository) -> None:
        super().__init__(delegate)
        self.problems: list[Problem] = []
        self.broken: set[str] = set()
        """Config paths that could not be loaded."""

    def load_config(self, config_path: str) -> ConfigResult | None:
        key = f"config_path={config_path}"
        if key in self.cache:
            return self.cache[key]
        result: ConfigResult | None
        try:
            result = super().load_config(config_path)
        except BadYaml as error:
            result = self._empty(config_path, error.problem)
        except (ValueError, OmegaConfBaseException) as error:  # a malformed defaults list
            what = f"its defaults list cannot be read: {str(error).splitlines()[0]}"
            result = self._empty(config_path, Problem(key=config_path, what=what))
        if result is None and (problem := self._missing(config_path)):
            result = self._empty(config_path, problem)
        self.cache[key] = result
        return result

    def _empty(self, config_path: str, problem: Problem) -> ConfigResult:
        self.problems.append(problem)
        self.broken.add(config_path)
        return FileResult(
            config=OmegaConf.create({}),
            path="",
            provider="",
            header={"package": None},
            defaults_list=[],
            is_schema_source=False,
        )

    def files(self) -> list[YamlFile]:
        """Every file loaded so far."""
        return [r.file for r in self.cache.values() if isinstance(r, FileResult) and r.file]

    def entries(self, group: str, option: str) -> Iterator[tuple[list[str], str]]:
        """(words, FILE:LINE) of the entries of defaults lists that name an option: (["override", "/optim"], ...)."""
        for file in self.files():
            for entry, value, line in file.choices:
                words = entry.split()
                named = words[-1].split("@")[0].strip("/") if words else ""
                if value.split("@")[0].split("/")[-1] == option and (not named or group.endswith(named)):
                    yield words, f"{file.name}:{line}"

    def _missing(self, config_path: str) -> Problem | None:
        """The problem of an option that a defaults list names and that does not exist; None if it is optional."""
        group, _, option = config_path.rpartition("/")
        if option == "None":  # how Hydra spells `group: null` when it looks for a package header
            return None
        for words, where in self.entries(group, option):
            return None if "optional" in words else self.unknown_option(group, option, where)
        return Problem(key=config_path, what="no such config file")

    def unknown_option(self, group: str, option: str, origin: str, fix: str | None = None) -> Problem:
        """The problem of choosing an option that a group does not have."""
        options = self.get_group_options(group) if group else []
        guess = None if fix else closest(option, options)
        return Problem(
            key=group or option,
            value=option if group else ...,
            origin=origin,
            what=f"{group} has no option {option}" if group else "no such config file",
            allowed=", ".join(options) or None,
            suggestion=f"{group}={guess}" if guess else None,
            fix=fix,
        )
