"""Rules of `launch`: several ranks need an engine for them."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import parallel
from ..config import Config
from .sentences import needs


def ranks(config: Config) -> Iterator[Problem]:
    """parallel=single is one process."""
    if not isinstance(config.parallel, parallel.Single):
        return
    for name in ("nproc_per_node", "nnodes"):
        count = getattr(config.launch, name) or 1
        if count > 1:
            other = "an engine for several ranks"
            yield needs(f"launch.{name}", count, other, fix="parallel=ddp", related=("parallel",))


RULES = (ranks,)
