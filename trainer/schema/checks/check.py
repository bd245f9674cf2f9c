"""Every rule that a typed Config must satisfy before anything runs, checked at once.

A rule is a pure generator of Problems: it imports no torch and looks at nothing but the config. What depends on the
machine is in config/machine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...errors import Problem
from ..config import Config
from . import (
    bounds,
    callbacks,
    checkpoint,
    cluster,
    compile,
    data,
    evaluation,
    hub,
    launch,
    logging,
    memory,
    model,
    optim,
    parallel,
    precision,
    run,
    scheduler,
    train,
)

Rule = Callable[[Config], Iterator[Problem]]

RULES: tuple[Rule, ...] = (
    *bounds.RULES,
    *run.RULES,
    *train.RULES,
    *data.RULES,
    *model.RULES,
    *optim.RULES,
    *scheduler.RULES,
    *precision.RULES,
    *parallel.RULES,
    *memory.RULES,
    *compile.RULES,
    *evaluation.RULES,
    *checkpoint.RULES,
    *logging.RULES,
    *hub.RULES,
    *callbacks.RULES,
    *launch.RULES,
    *cluster.RULES,
)


def check(config: Config, further: Sequence[Rule] = ()) -> list[Problem]:
    """Every problem of ``config`` by RULES and ``further`` ones; the caller fills in where its values came from."""
    if misplaced := list(bounds.misplaced(config)):
        return misplaced
    return [problem for rule in (*RULES, *further) for problem in rule(config)]
