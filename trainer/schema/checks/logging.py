"""Rules of `logging`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ..config import Config
from .sentences import needs


def spaces(config: Config) -> Iterator[Problem]:
    """A Trackio Space's bucket and frozen copy belong to a Space."""
    for name, node in config.logging.reporters.items():
        if type(node).__name__ == "Trackio" and not node.trackio_space_id:
            key = f"logging.reporters.{name}"
            space = f"{key}.trackio_space_id"
            for leaf in ("trackio_bucket_id", "trackio_static_space_id"):
                if (value := getattr(node, leaf)) is not None:
                    yield needs(f"{key}.{leaf}", value, space, fix=f"{space}=user/name")


RULES = (spaces,)
