"""Rules about uploads: what belongs to hub.push_to_hub or to a Space needs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec

from ...errors import Problem
from ..config import Config
from ..hub import Hub


def hub(config: Config) -> Iterator[Problem]:
    """Nothing about uploads is accepted and then ignored."""
    node = config.hub
    if node.push_to_hub:
        if find_spec("huggingface_hub") is None:
            what = "needs the package huggingface_hub, which is not installed"
            yield Problem(key="hub.push_to_hub", value=True, what=what, fix="pip install huggingface_hub")
        return
    for f in fields(Hub):
        # hub_private_repo is trackio's too; a token may stand in a file for many runs
        if f.name not in ("hub_private_repo", "hub_token") and (value := getattr(node, f.name)) != f.default:
            what, related = "needs hub.push_to_hub=true", ("hub.push_to_hub",)
            yield Problem(key=f"hub.{f.name}", value=value, what=what, fix="hub.push_to_hub=true", related=related)


def spaces(config: Config) -> Iterator[Problem]:
    """A Trackio Space's bucket and frozen copy belong to a Space."""
    for name, node in config.logging.reporters.items():
        if type(node).__name__ == "Trackio" and not node.trackio_space_id:
            key = f"logging.reporters.{name}"
            for leaf in ("trackio_bucket_id", "trackio_static_space_id"):
                if (value := getattr(node, leaf)) is not None:
                    space = f"{key}.trackio_space_id"
                    what = f"needs {space}"
                    yield Problem(
                        key=f"{key}.{leaf}", value=value, what=what, fix=f"{space}=user/name", related=(space,)
                    )


RULES = (hub, spaces)
