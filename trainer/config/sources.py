"""Hydra's sources of configs, read through files.py's bounded reader, and a repository that reports what is broken."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problem, closest
from ..schema import OPTIONS
from . import files, hydra
from .files import BadYaml, YamlFile
from .hydra import (
    BasicSweeperConf,
    CachingConfigRepository,
    ConfigRepository,
    FileConfigSource,
    ImportlibResourcesConfigSource,
    StructuredConfigSource,
)

FROM_FLAG = "command-line"
"""The provider of --config-dir's source; Hydra uses this name too."""
PACKAGED = Path(__file__).parents[1] / "conf"
"""conf/ inside a wheel; a checkout has it beside the package."""


def conf_directory() -> Path:
    """The options that come with the package."""
    return PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"


def search_path(config_dir: str | None = None) -> ConfigSearchPath:
    """Hydra's own configs, the working directory's `conf`, the package's, --config-dir's, then the schema."""
    entries = [("hydra", "pkg://hydra.conf")]
    own = Path("conf").resolve()
    if own.is_dir() and own != conf_directory().resolve():
        entries.append(("working directory", f"file://{own}"))
    entries.append(("main", f"file://{conf_directory()}"))
    if config_dir is not None:
        entries.append((FROM_FLAG, f"file://{os.path.abspath(config_dir)}"))
    entries.append(("schema", "structured://"))
    return hydra.search_path(entries)


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
        header=hydra.header(file.header),
        file=file,
    )


class _File(FileConfigSource):
    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(os.path.realpath(os.path.join(self.path, hydra.file_name(config_path))))
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


def register() -> None:
    """Make the careful sources Hydra's."""
    for source in (_File, _Package, _Schema):
        hydra.register_source(source)
    ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=SweeperConf, provider="hydra")
    hydra.skip_unused_interpolation_map()


LISTED = 20
"""More options than this are not read in an error line."""


def listed(options: Sequence[str]) -> str | None:
    """Options on one line, or the first ones where there are many."""
    if len(options) <= LISTED:
        return ", ".join(options) or None
    return f"{', '.join(options[:LISTED])} ... ({len(options)} in all; --help lists them)"


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
            result = self._empty(config_path, Problem(key=config_path, origin=self._place(config_path), what=what))
        if result is None and (problem := self._missing(config_path)):
            result = self._empty(config_path, problem)
        self.cache[key] = result
        return result

    def _place(self, config_path: str) -> str | None:
        """The file of a config that could not be loaded."""
        paths = [Path(source.path, hydra.file_name(config_path)) for source in self.get_sources()]
        return next((files.shown(path) for path in paths if path.is_file()), None)

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
            allowed=None if fix or guess else listed(options),
            suggestion=f"{group}={guess}" if guess else None,
            fix=fix,
        )
