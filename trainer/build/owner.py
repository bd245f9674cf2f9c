"""Whose code a module is: the standard library's, an installed package's, or the user's own. Imports nothing."""

from __future__ import annotations

import sys
from enum import Enum
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")


class Owner(Enum):
    """Who wrote a package, by where its files lie."""

    standard = "the standard library"
    installed = "an installed package"
    own = "the user"
    nobody = "not found"


def owner(package: str) -> Owner:
    """Whose the top-level package ``package`` is.

    The user's own lie in the working directory, beside the script or elsewhere on the path (PYTHONPATH, an editable
    install), but in no site-packages.
    """
    if package in ("__main__", "__mp_main__"):
        return Owner.own
    if package in sys.stdlib_module_names or package.lstrip("_") in sys.stdlib_module_names:
        return Owner.standard
    spec = _spec(package)
    if spec is None:
        return Owner.nobody
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return _owner_of(tuple(places))


def _spec(package: str) -> ModuleSpec | None:
    try:
        return find_spec(package)
    except (ValueError, ImportError):  # a module without a spec, such as one made by hand
        module = sys.modules.get(package)
        file = getattr(module, "__file__", None)
        return None if file is None else ModuleSpec(package, None, origin=file)


@cache
def _owner_of(places: tuple[str, ...]) -> Owner:
    paths = [Path(place).resolve() for place in places]
    if not paths:  # built in, or made by hand
        return Owner.standard
    return Owner.installed if any(part in INSTALLED for path in paths for part in path.parts) else Owner.own
