"""Everything this project uses of Hydra's and OmegaConf's internals: no other module imports a private name of theirs.

What costs start-up time is imported in the function that needs it.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

# importing these two stores hydra/launcher=basic and hydra/sweeper=basic: no scan for plugins is needed
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.defaults_list import Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader, split_key

from ..errors import COMMAND_LINE, ConfigError, Problem

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

__all__ = [
    "PLUGINS",
    "BasicSweeperConf",
    "CachingConfigRepository",
    "ConfigLoaderImpl",
    "ConfigRepository",
    "FileConfigSource",
    "ImportlibResourcesConfigSource",
    "Overrides",
    "StructuredConfigSource",
    "apply_override",
    "combinations",
    "defaults_of",
    "extend_search_path",
    "file_name",
    "flags_parser",
    "header",
    "overrides_dirname",
    "register_source",
    "search_path",
    "skip_unused_interpolation_map",
    "split_key",
    "viewer",
    "yaml_loader",
]

PLUGINS = {"launcher": BasicLauncher, "sweeper": BasicSweeper}
"""The plugins of `hydra/launcher=basic` and `hydra/sweeper=basic`."""

yaml_loader: Callable[[], Any] = cache(get_yaml_loader)
"""OmegaConf's YAML loader class, which refuses duplicate keys."""


def flags_parser(version: str) -> argparse.ArgumentParser:
    """The parser of Hydra's command line, flags and overrides; --version says ``version`` and Hydra's."""
    from hydra import __version__
    from hydra._internal.utils import get_args_parser

    hydras = get_args_parser()
    parser = _Parser(description=hydras.description, parents=[hydras], add_help=False, conflict_handler="resolve")
    version = f"{version} (Hydra {__version__})"
    parser.add_argument("--version", action="version", version=version, help="Show the version and exit")
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that answers with one line, without its usage."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem(key="train", origin=COMMAND_LINE, what=message, fix="--help lists the flags")])


@contextmanager
def viewer(loader: ConfigLoaderImpl) -> Iterator[Hydra]:
    """Hydra's own object, which shows configs, completes words and prints its help."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    hydra = Hydra(task_name="train", config_loader=loader)
    GlobalHydra.instance().initialize(hydra)
    try:
        yield hydra
    finally:
        GlobalHydra.instance().clear()


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """All combinations of the overrides' listed values, in the order of Hydra's own sweeper."""
    return BasicSweeper.split_arguments(list(overrides), None)[0]


def search_path(entries: Sequence[tuple[str, str]]) -> ConfigSearchPath:
    """A search path of (provider, path)."""
    path = ConfigSearchPathImpl()
    for provider, place in entries:
        path.append(provider, place)
    return path


def extend_search_path(
    loader: ConfigLoaderImpl, config_name: str, overrides: list[Override], repo: CachingConfigRepository
) -> None:
    """Add what `hydra.searchpath` names to the sources of ``repo``.

    Raises:
        ConfigCompositionException: it is not a list of strings.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing directories: the caller reports them
        loader._process_config_searchpath(config_name, overrides, repo)


def defaults_of(
    config_name: str, overrides: Overrides, repo: CachingConfigRepository, *, skip_missing: bool
) -> list[ResultDefault]:
    """The configs that ``config_name`` is composed of, in the order in which they are merged."""
    found, _ = defaults_list._create_defaults_list(
        repo, config_name, overrides, prepend_hydra=True, skip_missing=skip_missing
    )
    return found


def apply_override(override: Override, cfg: DictConfig) -> None:
    """Apply one override to a composed config by Hydra's own rules."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, dict) and key == "hydra.sweeper.params":  # OmegaConf cannot merge a mapping into null
        OmegaConf.update(cfg, key, {str(name): _typed(item) for name, item in value.items()}, merge=False)
        return
    ConfigLoaderImpl._apply_overrides_to_config([override], cfg)


def _typed(value: Any) -> str:
    """A value of hydra.sweeper.params as it is typed after KEY=."""
    return str(value) if not isinstance(value, bool | list | dict) else Override._get_value_element_as_str(value)


def overrides_dirname(overrides: list[Override], settings: Any) -> str:
    """`${hydra.job.override_dirname}`, with the settings of `hydra.job.config.override_dirname`."""
    return get_overrides_dirname(
        overrides=overrides,
        kv_sep=settings.kv_sep,
        item_sep=settings.item_sep,
        exclude_keys=settings.exclude_keys,
    )


def header(text: str) -> dict[str, str | None]:
    """The settings in a config file's first comment lines, `# @package _global_`."""
    return ConfigSource._get_header_dict(text)


def file_name(config_path: str) -> str:
    """The file that holds a config: `optim/adamw.yaml` for `optim/adamw`."""
    return ConfigSource._normalize_file_name(config_path)


def register_source(source: type[ConfigSource]) -> None:
    """Use ``source`` for its scheme.

    The plugin scan registers Hydra's own class for the scheme later, and accepts one of the same name.
    """
    source.__name__ = source.__bases__[0].__name__
    SourcesRegistry.instance().types[source.scheme()] = source


_create_interpolation_map = defaults_list._create_interpolation_map


def skip_unused_interpolation_map() -> None:
    """Build Hydra's map for `${...}` in defaults lists only where there is any: it took a quarter of a composition."""
    defaults_list._create_interpolation_map = _interpolation_map  # type: ignore[assignment]


def _interpolation_map(overrides: Any, defaults: Any, self_added: bool) -> Any:
    if not any(default.is_interpolation() for default in defaults):
        return None
    return _create_interpolation_map(overrides, defaults, self_added)
