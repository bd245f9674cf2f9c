"""Settings of Hydra's own that this application does not honour: said, not ignored."""

from __future__ import annotations

from collections.abc import Iterator

from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..errors import Problem

PLUGINS = {
    "launcher": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "sweeper": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}


def check(hydra: DictConfig, mode: RunMode) -> list[Problem]:
    """Problems of the composed `hydra` node."""
    try:
        return list(_check(hydra, mode))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "hydra")
        return [Problem(key=key, what=f"cannot be resolved: {str(error).splitlines()[0]}")]


def _check(hydra: DictConfig, mode: RunMode) -> Iterator[Problem]:
    for name, target in PLUGINS.items():
        if hydra[name]._target_ != target:
            what = f"only Hydra's basic {name} is supported"
            yield Problem(
                key=f"hydra/{name}",
                value=hydra.runtime.choices.get(f"hydra/{name}"),
                what=what,
                fix=f"hydra/{name}=basic",
            )
    for name in ("job_logging", "hydra_logging"):
        choice = hydra.runtime.choices.get(f"hydra/{name}")
        if choice != "default":
            what = "logging is set up by the run itself"
            yield Problem(key=f"hydra/{name}", value=choice, what=what, fix="logging.log_level=debug")
    if hydra.callbacks:
        what = "Hydra's callbacks are not called"
        yield Problem(key="hydra.callbacks", what=what, fix="callbacks.NAME._target_=package.Class")
    if hydra.output_subdir is not None:
        what = "Hydra's files are not written: the run's directory holds config.yaml and overrides.yaml"
        yield Problem(key="hydra.output_subdir", value=hydra.output_subdir, what=what, fix="hydra.output_subdir=null")
    if hydra.verbose is not False:
        what = "is not used here"
        yield Problem(key="hydra.verbose", value=str(hydra.verbose), what=what, fix="logging.log_level=debug")
    if hydra.sweeper.get("max_batch_size") is not None:
        what = "every trial is checked before the first starts, and they run one after the other"
        yield Problem(
            key="hydra.sweeper.max_batch_size",
            value=hydra.sweeper.max_batch_size,
            what=what,
            fix="hydra.sweeper.max_batch_size=null",
        )
    trials = hydra.sweeper.get("n_trials")
    if trials is not None and trials < 1:
        yield Problem(key="hydra.sweeper.n_trials", value=trials, what="is out of range", allowed="at least 1")
    if mode == RunMode.RUN:
        try:
            directory = str(hydra.run.dir)
        except Exception as error:  # an interpolation may raise anything its resolver raises
            yield Problem(key="hydra.run.dir", what=f"cannot be resolved: {str(error).splitlines()[0]}")
        else:
            if not directory or "\0" in directory:
                yield Problem(key="hydra.run.dir", what="is empty", fix="hydra.run.dir=outputs/mine")
