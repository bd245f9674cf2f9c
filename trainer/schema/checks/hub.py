"""Rules of `hub`: nothing about uploads is accepted and then ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from ...errors import Problem
from ..config import Config
from ..hub import Hub
from .sentences import needs

READ_WITHOUT_PUSHING = ("hub_private_repo", "hub_token")
"""The first is Trackio's too; the second may stand in a file for many runs."""


def uploads(config: Config) -> Iterator[Problem]:
    """Settings of uploads need push_to_hub."""
    if config.hub.push_to_hub:
        return
    for f in fields(Hub):
        value = getattr(config.hub, f.name)
        if f.name not in READ_WITHOUT_PUSHING and value != f.default:
            yield needs(f"hub.{f.name}", value, "hub.push_to_hub=true")


RULES = (uploads,)
