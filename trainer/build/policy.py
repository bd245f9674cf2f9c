"""What a config may call: a class of a slot's type, the user's own code, or a name on a short list (curated.py).

A config may come from elsewhere, with a checkpoint or from a colleague. Everything that it names passes `locate` before
it is called. Packages that the user permits (run.allow_packages) are permitted for the whole process.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cache, partial
from importlib import import_module
from types import MethodType, ModuleType
from typing import Any

from ..errors import closest
from ..schema import OPTIONS
from .curated import KINDS, NAMESPACES, STANDARD_LIBRARY, is_curated, is_curated_home, is_refused
from .owner import Owner, owner

ROOMS = ("model", "data", "optim", "scheduler", "parallel", "logging", "callbacks", "task", "cluster")
"""The parts of this package that hold what a slot takes; the others start processes and write files."""
GIVEN = ("trainer.build.given.Given", "trainer.build.given.given_function")
"""Stand for objects and functions that were passed from Python."""
ALLOW = "run.allow_packages"

_permitted: set[str] = set()


class Refused(ValueError):
    """A config may not call a name. The message is the name and the reason; ``fix`` the override that allows it."""

    def __init__(self, name: str, reason: str, fix: str | None) -> None:
        super().__init__(f"{name} {reason}" + (f"; fix: {fix}" if fix else ""))
        self.reason, self.fix = reason, fix


def permit(packages: Iterable[str]) -> None:
    """Let configs call everything of these installed packages (`package` or `package.module`) in this process.

    Only for what the user typed or keeps in the project's own conf/.
    """
    _permitted.update(packages)


def refusal(name: str) -> str | None:
    """Why a config may not call ``name``, as far as the name alone tells; None if it may. Imports nothing."""
    found = _refusal(name)
    return None if found is None else found.reason


def check_name(name: str) -> None:
    """Check what the name alone tells.

    Raises:
        Refused: a config may not call ``name``.
    """
    if found := _refusal(name):
        raise found


def locate(name: str) -> Any:
    """Import what ``name`` names, if the policy allows the name and what it turns out to be.

    Raises:
        Refused: the policy does not allow it.
        ImportError, AttributeError: there is no such object.
    """
    check_name(name)
    parts = name.split(".")
    found: Any = import_module(parts[0])
    for i, part in enumerate(parts[1:], start=1):
        try:
            found = getattr(found, part)
        except AttributeError:
            if not isinstance(found, ModuleType):
                raise
            found = _submodule(found, parts[: i + 1])
    _check_object(name, found)
    return found


def _submodule(package: ModuleType, parts: list[str]) -> ModuleType:
    try:
        return import_module(".".join(parts))
    except ModuleNotFoundError as error:
        if error.name != ".".join(parts):
            raise
        parent = ".".join(parts[:-1])
        guess = closest(parts[-1], [n for n in dir(package) if not n.startswith("_")])
        hint = f"; did you mean {parent}.{guess}" if guess else ""
        raise AttributeError(f"{parent} has no {parts[-1]}{hint}") from None


def is_own(name: str) -> bool:
    """Whether ``name`` lies in the user's own code."""
    package = name.split(".")[0]
    return package != "trainer" and owner(package) is Owner.own


def _is_permitted(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in _permitted)


@cache
def _option_targets() -> frozenset[str]:
    classes = [cls for options in OPTIONS.values() for cls in options.values()]
    return frozenset(str(f.default) for cls in classes for f in fields(cls) if f.name == "_target_")


def _refusal(name: str) -> Refused | None:
    parts = name.split(".")
    package = parts[0]
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return Refused(name, "is not the dotted name of a class or function, as package.module.Class", None)
    if any(part.startswith("_") for part in parts):
        return Refused(name, "names something private", None)
    if is_curated(name) or name in GIVEN or name in _option_targets():
        return None
    if package == "trainer":
        what = f"may not be named in a config: only trainer.{{{','.join(ROOMS)}}} hold what a slot takes"
        return None if parts[1] in ROOMS else Refused(name, what, None)
    whose = owner(package)
    if whose is Owner.standard:
        return _standard(name, f"may not be named in a config: {package} can run any code")
    if whose is not Owner.installed or _is_permitted(name):
        return None
    # only a class may pass; a function or a method, known by its lower-case name, is refused without an import
    if is_refused(name) or not parts[-1][0].isupper():
        return _foreign(name)
    return None


def _standard(name: str, reason: str) -> Refused:
    return Refused(name, reason, "call it in a function of your own and name that")


def _foreign(name: str, real: str | None = None) -> Refused:
    is_ = f"is {real}, which" if real and real != name else "is installed code that"
    what = f"{is_} is neither a class of a slot's type (Module, Dataset, Optimizer ...) nor on the curated list"
    return Refused(name, what, f"{ALLOW}=[{(real or name).split('.')[0]}]")


def _check_object(name: str, found: Any) -> None:
    """A harmless-looking path may lead to `os.system`: look at what was found, not only at its name."""
    if isinstance(found, ModuleType):
        raise Refused(name, "is a module, not a class or function", None)
    function = _unwrapped(found)
    home = _home(function) or f"{type(function).__module__}.{type(function).__qualname__}"
    if name in _option_targets() or name in GIVEN or _is_permitted(home) or home in STANDARD_LIBRARY:
        return
    package = home.split(".")[0]
    whose = owner(package)
    if whose is Owner.standard and not _alias(function):
        raise _standard(name, f"is {home.lstrip('_')}, which may not be named in a config")
    if package != "trainer" and whose is Owner.own:
        return
    is_kind = _is_kind(function) and not is_refused(home)
    listed = is_curated(name) and package == name.split(".")[0] and not is_refused(home)
    if not (is_kind or listed or is_curated_home(home) or _alias(function)):
        raise _foreign(name, home)


def _unwrapped(found: Any) -> Any:
    while isinstance(found, partial | MethodType):
        found = found.func if isinstance(found, partial) else found.__func__
    return inspect.unwrap(found) if callable(found) else found


def _home(found: Callable[..., Any]) -> str | None:
    """MODULE.QUALNAME of a class or function; None if it does not say."""
    owner_ = getattr(found, "__self__", None)  # of a method or function written in C
    module = (
        getattr(found, "__module__", None) or getattr(owner_, "__module__", None) or getattr(owner_, "__name__", None)
    )
    if module is None and (cls := getattr(found, "__objclass__", None)) is not None:  # numpy.ndarray.tofile
        module = cls.__module__
    name = getattr(found, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    return f"{'os' if module in ('posix', 'nt') else module}.{name}"


def _is_kind(found: Any) -> bool:
    return isinstance(found, type) and any(f"{cls.__module__}.{cls.__qualname__}" in KINDS for cls in found.__mro__)


def _alias(found: Any) -> bool:
    """Whether ``found`` is on the list under another name, such as a function written in C that names no module."""
    name = getattr(found, "__name__", "")
    return any(
        getattr(sys.modules.get(module), name, None) is found and is_curated(f"{module}.{name}")
        for module in NAMESPACES
        if name and module in sys.modules
    )
