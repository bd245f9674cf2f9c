"""Hydra's own node: completed as Hydra's loader does it, and checked for settings that are not supported here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import __version__, version
from hydra.conf import ConfigSourceInfo
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import COMMAND_LINE, DEFAULT, Problem
from .draft import Draft
from .hydra import PLUGINS, overrides_dirname

HYDRAS_SUBDIRECTORY = ".hydra"
"""Hydra's default, which a user's own primary config has; nothing is written there."""
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4000
"""Linux's NAME_MAX and, less what a run writes below its directory, PATH_MAX."""


def is_too_long(path: str) -> bool:
    """Whether the file system takes no such path."""
    names = os.fsencode(os.path.abspath(path)).split(b"/")
    return max(map(len, names)) > MAX_NAME_BYTES or sum(map(len, names)) + len(names) > MAX_PATH_BYTES


def complete(parsed: Sequence[Override], draft: Draft) -> None:
    """Fill in what Hydra knows of this command, so that `${hydra:...}` resolves."""
    hydra = draft.cfg.hydra
    for override in parsed:
        (hydra.overrides.hydra if override.is_hydra_override() else hydra.overrides.task).append(override.input_line)
    with open_dict(hydra):
        hydra.runtime.choices.update(draft.choices)
        for name in hydra.job.env_copy:
            hydra.job.env_set[name] = os.environ.get(name, "")
    verbose = OmegaConf.select(hydra, "verbose", throw_on_resolution_failure=False)
    if verbose is True and draft.origins["logging.log_level"] == DEFAULT:  # Hydra's word for debug messages
        OmegaConf.update(draft.cfg, "logging.log_level", "debug")
        draft.origins.set("logging.log_level", "debug", COMMAND_LINE)
    hydra.runtime.version = __version__
    hydra.runtime.version_base = version.getbase()
    hydra.runtime.cwd = os.getcwd()
    hydra.runtime.config_sources = [
        ConfigSourceInfo(path=s.path, schema=s.scheme(), provider=s.provider) for s in draft.repo.get_sources()
    ]
    if "name" not in hydra.job:
        hydra.job.name = JobRuntime.instance().get("name")
    words = [o for o in parsed if not o.is_hydra_override()]
    hydra.job.override_dirname = overrides_dirname(words, hydra.job.config.override_dirname)
    hydra.job.config_name = draft.config_name
    HydraConfig.instance().set_config(draft.cfg)


def check(hydra: DictConfig, mode: RunMode) -> list[Problem]:
    """The settings of the composed `hydra` node that would be ignored or fail."""
    try:
        return list(_check(hydra, mode))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "hydra")
        return [Problem(key=key, what=f"cannot be resolved: {str(error).splitlines()[0]}")]


def _check(hydra: DictConfig, mode: RunMode) -> Iterator[Problem]:
    yield from _check_plugins(hydra)
    if (verbose := hydra.verbose) not in (True, False):
        fix = "logging.log_level=debug"
        yield Problem(key="hydra.verbose", value=verbose, what="takes no names of loggers here", fix=fix)
    unused: tuple[tuple[str, Any, str, str], ...] = (
        ("callbacks", None, "Hydra's callbacks are not called", "callbacks.NAME._target_=package.Class"),
        (
            "output_subdir",
            None,
            "Hydra's files are not written: the run's directory holds config.yaml and overrides.yaml",
            "hydra.output_subdir=null",
        ),
        (
            "sweeper.max_batch_size",
            None,
            "every trial is checked before the first starts, and they run one after the other",
            "hydra.sweeper.max_batch_size=null",
        ),
    )
    for name, off, what, fix in unused:
        value = OmegaConf.select(hydra, name)
        if value not in (off, {}) and (name, value) != ("output_subdir", HYDRAS_SUBDIRECTORY):
            yield Problem(key=f"hydra.{name}", value=... if name == "callbacks" else value, what=what, fix=fix)
    trials = hydra.sweeper.get("n_trials")
    if trials is not None and trials < 1:
        yield Problem(key="hydra.sweeper.n_trials", value=trials, what="is out of range", allowed="at least 1")
    if mode == RunMode.RUN:
        yield from _check_directory(hydra)


def _check_plugins(hydra: DictConfig) -> Iterator[Problem]:
    choices = hydra.runtime.choices
    for name, plugin in PLUGINS.items():
        key = f"hydra/{name}"
        if hydra[name]._target_ != f"{plugin.__module__}.{plugin.__name__}":
            what = f"only Hydra's basic {name} is supported"
            yield Problem(key=key, value=choices.get(key), what=what, fix=f"{key}=basic")
    for key in ("hydra/job_logging", "hydra/hydra_logging"):
        if choices.get(key) not in ("default", "disabled", "none"):
            what = "the run sets up its logging itself"
            yield Problem(key=key, value=choices.get(key), what=what, fix="logging.log_level=debug")


def _check_directory(hydra: DictConfig) -> Iterator[Problem]:
    key = "hydra.run.dir"
    try:
        directory = str(hydra.run.dir)
    except Exception as error:  # an interpolation may raise anything its resolver raises
        yield Problem(key=key, what=f"cannot be resolved: {str(error).splitlines()[0]}")
    else:
        if not directory:
            yield Problem(key=key, what="is empty", fix=f"{key}=outputs/first")
        elif "\0" in directory:
            yield Problem(key=key, what="holds a null byte", fix=f"{key}=outputs/first")
        elif is_too_long(directory):
            yield Problem(key=key, value=directory, what=f"is too long: a name may have {MAX_NAME_BYTES} bytes")
