"""Rules of `run`: what it does, and its debugging words."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ..config import Config
from .sentences import needs, outside, wrong

DEBUG_WORDS = ("underflow_overflow", "tpu_metrics_debug")


def switches(config: Config) -> Iterator[Problem]:
    """A run has something to do, and the data for it."""
    run = config.run
    if not (run.do_train or run.do_eval or run.do_predict):
        fix, related = "run.do_eval=true or run.do_predict=true", ("run.do_eval", "run.do_predict")
        yield wrong("run.do_train", False, "leaves nothing to do", fix=fix, related=related)
    for name, part in (("do_train", "train"), ("do_eval", "eval"), ("do_predict", "predict")):
        key = f"data.{part}_dataset"
        if getattr(run, name) and not getattr(config.data, f"{part}_dataset"):
            fix = f"{key}._target_=package.Dataset or run.{name}=false"
            yield needs(f"run.{name}", True, f"{key}, which is null", fix=fix, related=("data",))


def debugging(config: Config) -> Iterator[Problem]:
    """run.debug's words are known, and see the model's modules."""
    words = config.run.debug.split()
    if unknown := [word for word in words if word not in DEBUG_WORDS]:
        yield outside("run.debug", config.run.debug, f"there is no {unknown[0]}", ", ".join(DEBUG_WORDS))
    if "underflow_overflow" in words and config.compile.is_enabled():
        what, related = "sees no module of a compiled model", ("compile.torch_compile",)
        yield wrong("run.debug", config.run.debug, what, fix="compile.torch_compile=false", related=related)


RULES = (switches, debugging)
