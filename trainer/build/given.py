"""The place of an object that was passed from Python: a config can name its class, but not rebuild it."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import ConfigError, Problem

ORIGIN = "Python"


class Given:
    """Stands in a config where a Python caller passed an object instead of a `_target_`.

    The caller uses the object and never builds this node; whoever does, such as a resume on the command line, does not
    have the object.
    """

    def __init__(self, object: str, argument: str | None = None) -> None:
        """Refuse to build.

        Args:
            object: dotted name of the object's class, or of the object if it is a class or a function.
            argument: the Trainer's argument that it was passed as.

        Raises:
            ConfigError: always.
        """
        raise _needed(f"the object {object}", argument)


def given_function(*args: Any, compute_result: bool = True) -> NoReturn:
    """Stands where a Python caller passed a function instead of its dotted name (data.collate_fn,
    evaluation.compute_metrics).

    Raises:
        ConfigError: always.
    """
    raise _needed("a function", None)


def _needed(what: str, argument: str | None) -> ConfigError:
    what += " was passed from Python and has to be passed again"
    fix = f"Trainer(..., {argument or 'NAME'}=...)"
    return ConfigError([Problem(key=argument or "_target_", origin=ORIGIN, what=what, fix=fix)])


def given_node(passed: object, argument: str) -> dict[str, str]:
    """The node that stands in a config for an object passed as the Trainer's ``argument``."""
    named = passed if hasattr(passed, "__qualname__") else type(passed)
    name = f"{named.__module__}.{named.__qualname__}"
    return {"_target_": f"{Given.__module__}.{Given.__qualname__}", "object": name, "argument": argument}
