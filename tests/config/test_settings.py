"""Hydra's own settings: those that would be ignored are refused, and its node knows the command."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.config.composer import Composition

Compose = Callable[..., Composition]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("hydra/job_logging=stdout", "hydra/job_logging=stdout (command line): the run sets up its logging itself"),
        ("+hydra.callbacks.a._target_=b.C", "hydra.callbacks (command line): Hydra's callbacks are not called"),
        ("hydra.output_subdir=x", "hydra.output_subdir=x (command line): Hydra's files are not written"),
        ("hydra.verbose=[a]", "hydra.verbose=['a'] (command line): takes no names of loggers here"),
        ("hydra.sweeper.max_batch_size=2", "hydra.sweeper.max_batch_size=2 (command line): every trial is checked"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0 (command line): is out of range; allowed: at least 1"),
        ("hydra.run.dir=''", "hydra.run.dir (command line): is empty"),
        ("hydra.run.dir=${oc.env:NO_SUCH_NAME}", "hydra.run.dir (command line): cannot be resolved"),
    ],
)
def test_what_would_be_ignored_is_refused(compose: Compose, override: str, line: str) -> None:
    (problem,) = compose(override).problems
    assert str(problem).startswith(line)


@pytest.mark.parametrize(
    "override",
    [
        *("hydra/job_logging=disabled", "hydra/job_logging=none", "hydra/hydra_logging=disabled"),
        *("hydra.output_subdir=.hydra", "hydra.verbose=true"),
    ],
)
def test_what_is_right_with_hydra_is_right_here(compose: Compose, override: str) -> None:
    composition = compose(override)
    assert not composition.problems
    assert composition.config is not None
    assert (composition.config.logging.log_level == "debug") == ("verbose" in override)


def test_hydras_node_knows_the_command(compose: Compose) -> None:
    hydra = compose("optim=sgd", "train.max_steps=3", "hydra.job.name=x").cfg.hydra
    assert hydra.runtime.choices.optim == "sgd"
    assert list(hydra.overrides.task) == ["optim=sgd", "train.max_steps=3"]
    assert list(hydra.overrides.hydra) == ["hydra.job.name=x"]
    assert hydra.job.override_dirname == "optim=sgd,train.max_steps=3"
