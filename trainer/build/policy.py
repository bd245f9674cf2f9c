"""What a config may name in `_target_`: a policy. Opening a config runs no code but the named classes'."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from importlib import import_module
from types import MethodType, ModuleType
from typing import Any

from ..errors import closest

STANDARD_LIBRARY = frozenset(
    {
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "decimal.Decimal",
        "fractions.Fraction",
        "functools.partial",
        "pathlib.PurePath",
        "builtins.bool",
        "builtins.dict",
        "builtins.float",
        "builtins.int",
        "builtins.list",
        "builtins.set",
        "builtins.str",
        "builtins.tuple",
    }
)
"""Harmless values; everything else of the standard library (os, subprocess, pickle, builtins.eval ...) is refused."""

REFUSED_PACKAGES = frozenset(
    {
        "hydra",
        "omegaconf",
        "yaml",
        "dill",
        "cloudpickle",
        "joblib",
        "jsonpickle",
        "pip",
        "setuptools",
        "pkg_resources",
        "_pytest",
        "pytest",
        "IPython",
        "fsspec",
        "sh",
        "plumbum",
        "fabric",
        "paramiko",
        "pexpect",
        "invoke",
        "ptyprocess",
        "cffi",
        "numba",
    }
)
"""Trampolines, unpicklers and shells."""

REFUSED_NAMES = (
    "torch.load",
    "torch.save",
    "torch.hub",
    "torch.package",
    "torch.serialization",
    "torch.ops",
    "torch.classes",
    "torch.jit.load",
    "torch.jit.save",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "torch.utils.serialization",
    "torch.storage",
    "torch.multiprocessing",
    "torch.distributed.run",
    "torch.distributed.launch",
    "torch.distributed.elastic",
    "torch.distributed.rpc",
    "torch.compile",
    "torch.fx",
    "torch.export.load",
    "torch.onnx",
    "torch.testing",
    "torch.library",
    "numpy.load",
    "numpy.save",
    "numpy.savez",
    "numpy.savetxt",
    "numpy.loadtxt",
    "numpy.genfromtxt",
    "numpy.fromfile",
    "numpy.fromregex",
    "numpy.memmap",
    "numpy.lib",
    "numpy.f2py",
    "numpy.ctypeslib",
    "numpy.distutils",
    "numpy.testing",
    "pandas.read_pickle",
    "pandas.eval",
    "sklearn.datasets.load_files",
    "transformers.pipeline",
)
"""Names, with everything below them, that load code, write files or start processes."""


OURS = ("model", "data", "optim", "scheduler", "parallel", "logging", "callbacks", "task", "cluster")
"""The parts of this package that hold what a slot takes; the others start processes and write files."""
GIVEN = ("trainer.build.given.Given", "trainer.build.given.given_function")
"""Stand for objects and functions that were passed from Python."""


def refusal(name: str) -> str | None:
    """Why a config may not name ``name``; None if it may."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return "is not the dotted name of a class or function, as package.module.Class"
    if any(part.startswith("_") for part in parts):
        return "names something private"
    if name in STANDARD_LIBRARY or name in GIVEN:
        return None
    if parts[0] in sys.stdlib_module_names or parts[0] in REFUSED_PACKAGES:
        return f"may not be named in a config: {parts[0]} can run any code"
    if parts[0] == "trainer" and parts[1] not in OURS:
        return f"may not be named in a config: only trainer.{{{','.join(OURS)}}} hold what a slot takes"
    if any(name == refused or name.startswith(refused + ".") for refused in REFUSED_NAMES):
        return "may not be named in a config: it can run any code or touch files"
    return None


def locate(name: str) -> Any:
    """Import what ``name`` names, if the policy allows the name and what it turns out to be.

    Raises:
        ValueError: the policy refuses it.
        ImportError, AttributeError: there is no such object.
    """
    if reason := refusal(name):
        raise ValueError(f"{name} {reason}")
    parts = name.split(".")
    thing: Any = import_module(parts[0])
    for i, part in enumerate(parts[1:], start=1):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            if not isinstance(thing, ModuleType):
                raise
            try:
                thing = import_module(".".join(parts[: i + 1]))
            except ModuleNotFoundError as error:
                if error.name != ".".join(parts[: i + 1]):
                    raise
                guess = closest(part, [n for n in dir(thing) if not n.startswith("_")])
                hint = f"; did you mean {'.'.join(parts[:i])}.{guess}" if guess else ""
                raise AttributeError(f"{'.'.join(parts[:i])} has no {part}{hint}") from None
    if reason := _refused_object(thing):
        raise ValueError(f"{name} {reason}")
    return thing


def _refused_object(thing: Any) -> str | None:
    """A harmless-looking path may lead to `os.system`: look at what was found, not only at how."""
    if isinstance(thing, ModuleType):
        return "is a module, not a class or function"
    while isinstance(thing, partial | MethodType):
        thing = thing.func if isinstance(thing, partial) else thing.__func__
    thing = inspect.unwrap(thing) if callable(thing) else thing
    owner = getattr(thing, "__self__", None)  # of a method or function written in C
    module = (
        getattr(thing, "__module__", None) or getattr(owner, "__module__", None) or getattr(owner, "__name__", None)
    )
    name = getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    module = {"posix": "os", "nt": "os"}.get(module, module)
    root = module.split(".")[0]
    if root.lstrip("_") in sys.stdlib_module_names or root in sys.stdlib_module_names:
        own = f"{module.lstrip('_')}.{name}"
        return None if own in STANDARD_LIBRARY else f"is {own}, which may not be named in a config"
    if root in ("torch", "numpy", "pandas", "trainer", *REFUSED_PACKAGES):
        public = ".".join(
            part for part in f"{module}.{name}".split(".") if part.isidentifier() and not part.startswith("_")
        )
        return refusal(public) if "." in public else None
    return None
