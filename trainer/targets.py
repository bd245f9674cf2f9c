"""What a config may name in `_target_`: a policy (opening a config runs no code but the named classes'), and checks of
the named objects' arguments.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import MethodType, ModuleType
from typing import Any

from .problems import Problem, closest
from .schema import OPTIONS, Config
from .schema.data import named_sets
from .schema.optim_args import BETAS, parse
from .schema.tree import slots

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


OURS = ("models", "datasets", "optim", "scheduler", "parallel", "logging", "callbacks", "task", "cluster")
"""The parts of this package that hold what a slot takes; the others start processes and write files."""


def refusal(name: str) -> str | None:
    """Why a config may not name ``name``; None if it may."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return "is not the dotted name of a class or function, as package.module.Class"
    if any(part.startswith("_") for part in parts):
        return "names something private"
    if name in STANDARD_LIBRARY:
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


def functions(config: Config) -> list[tuple[str, str]]:
    """(key, dotted name) of the functions that a config names outside of slots."""
    named = [
        ("data.collate_fn", config.data.collate_fn),
        ("evaluation.compute_metrics", config.evaluation.compute_metrics),
    ]
    return [(key, name) for key, name in named if name is not None]


def foreign(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, mapping) of every slot that holds something of the user's own."""
    for key, node in _objects(config):
        if isinstance(node, dict):
            yield key, node


def _objects(config: Config) -> Iterator[tuple[str, Any]]:
    for slot in slots():
        node: Any = config
        for name in slot.split("."):
            node = getattr(node, name)
        if slot == "data.eval_dataset":
            for name, one in named_sets(node).items():
                yield f"{slot}.{name}" if name else slot, one
        elif node is not None:
            yield slot, node
    for prefix, named in (("logging.reporters", config.logging.reporters), ("callbacks", config.callbacks)):
        for name, node in named.items():
            yield f"{prefix}.{name}", node


def _targets(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of every `_target_` at any depth."""
    items: Any = ()
    if is_dataclass(node) and not isinstance(node, type):
        items = [(f.name, getattr(node, f.name)) for f in fields(node)]
    elif isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list | tuple):
        items = enumerate(node)
    for name, value in items:
        if name == "_target_":
            yield f"{key}.{name}", value
        else:
            yield from _targets(f"{key}.{name}", value)


CORE = ("torch", "trainer")
"""Always there."""


def check_names(config: Config) -> Iterator[Problem]:
    """The policy, on every name at any depth, and whether the named packages are installed. Imports nothing."""
    named = [
        (k, v)
        for key, node in _objects(config)
        for k, v in _targets(key, node)
        if not (is_dataclass(node) and k == f"{key}._target_")  # an option's own target; checks.py knows its package
    ]
    named += functions(config)
    for key, name in named:
        if not isinstance(name, str):
            yield Problem(
                key=key, value=name, what="is not the dotted name of a class or function, as package.module.Class"
            )
        elif reason := refusal(name):
            yield Problem(key=key, value=name, what=reason)
        elif name.split(".")[0] not in (*CORE, *sys.modules) and find_spec(name.split(".")[0]) is None:
            package = name.split(".")[0]
            yield Problem(key=key, value=name, what=f"there is no package {package} here", fix=f"pip install {package}")


RUNTIME: dict[str, tuple[str, ...]] = {
    "optim": ("params",),
    "scheduler": ("optimizer", "num_training_steps"),
    "parallel": ("precision", "device"),
}
"""What the runner passes to a foreign object besides its own keys, as positional arguments or under these names."""

SPECIAL = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def check_calls(config: Config) -> Iterator[Problem]:
    """Import the user's own targets and bind their arguments. Call only after check_names found nothing."""
    for key, node in foreign(config):
        yield from _check_call(key, node, RUNTIME.get(key, ()))
    for key, node in _objects(config):
        if is_dataclass(node):
            for f in fields(node):  # such as task.metrics: named objects inside one of our own nodes
                yield from _nested_calls(f"{key}.{f.name}", getattr(node, f.name))
    yield from _check_optim_args(config.optim)
    for key, name in functions(config):
        found, problem = _import(key, name)
        if problem is not None:
            yield problem
        elif not callable(found):
            yield Problem(key=key, value=name, what="is not a function")
        elif key == "evaluation.compute_metrics" and config.evaluation.batch_eval_metrics:
            called = found.__call__ if isinstance(found, type) else found
            try:
                inspect.signature(called).bind_partial(compute_result=True)
            except TypeError:
                what = "takes no argument compute_result, which evaluation.batch_eval_metrics=true passes"
                yield Problem(key=key, value=name, what=what, fix="evaluation.batch_eval_metrics=false")


def _check_optim_args(node: Any) -> Iterator[Problem]:
    """optim_args names arguments of the class, where they are no fields of its option."""
    own = {f.name for f in fields(node)} if is_dataclass(node) else set()
    try:
        given = [name for name in parse(getattr(node, "optim_args", None)) if name not in own]
    except ValueError:  # checks.py has said so
        return
    if not given:
        return
    key, (found, problem) = "optim.optim_args", _import("optim._target_", node._target_)
    if problem is not None:
        yield problem
        return
    takes = [name for name, p in inspect.signature(found).parameters.items() if p.kind != p.VAR_KEYWORD][1:]
    known = [*takes, *(name for name in BETAS if "betas" in takes)]
    for name in given:
        if name not in known:
            fields_too = sorted({*own, *takes} - {"_target_", "optim_args", "optim_target_modules"})
            what, guess = f"{node._target_} takes no {name}", closest(name, fields_too)
            allowed = None if guess else ", ".join(fields_too)
            yield Problem(key=key, value=node.optim_args, what=what, allowed=allowed, suggestion=guess)


def _import(key: str, name: str) -> tuple[Any, Problem | None]:
    try:
        return locate(name), None
    except ValueError as error:
        return None, Problem(key=key, value=name, what=str(error).removeprefix(name).strip())
    except (Exception, SystemExit) as error:  # importing runs the user's module: it may raise anything
        reason = " ".join(str(error).split()) or "no reason given"
        return None, Problem(key=key, value=name, what=f"cannot be imported: {type(error).__name__}: {reason}")


def _check_call(key: str, node: dict[str, Any], runtime: tuple[str, ...]) -> Iterator[Problem]:
    if "_target_" not in node:  # told already: examine.without_target
        return
    name = node["_target_"]
    found, problem = _import(f"{key}._target_", name)
    if problem is not None:
        yield problem
    elif not callable(found):
        yield Problem(key=f"{key}._target_", value=name, what="is neither a class nor a function")
    elif option := _ours(name):
        yield Problem(key=f"{key}._target_", value=name, what=f"belongs to an option of its own: choose {option}")
    else:
        yield from _check_arguments(key, node, runtime, found)
    for child, value in node.items():
        if child not in SPECIAL:
            yield from _nested_calls(f"{key}.{child}", value)


def _nested_calls(key: str, value: Any) -> Iterator[Problem]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield from _check_call(key, value, ())
        else:
            for name, child in value.items():
                yield from _nested_calls(f"{key}.{name}", child)
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _nested_calls(f"{key}.{i}", child)


def _ours(name: str) -> str | None:
    for group, options in OPTIONS.items() if name.startswith("trainer.") else ():
        for option, cls in options.items():
            if name == next(f.default for f in fields(cls) if f.name == "_target_"):
                return f"{'logging' if group == 'reporters' else group}={option}"
    return None


def _check_arguments(
    key: str, node: dict[str, Any], runtime: tuple[str, ...], found: Callable[..., Any]
) -> Iterator[Problem]:
    try:
        signature = inspect.signature(found)
    except (ValueError, TypeError):  # some builtins have none
        return
    given = {k: v for k, v in node.items() if k not in SPECIAL}
    if key == "optim":  # make_optimizer passes the shared names under torch's, and the weight decay through groups
        shared = {"learning_rate": "lr", "adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
        given = {shared.get(k, k): v for k, v in given.items() if k != "weight_decay"}
    parameters = signature.parameters
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in given:
        if name not in names and not takes_any:
            guess = closest(str(name), names)
            yield Problem(
                key=f"{key}.{name}",
                value=given[name],
                what=f"{node['_target_']} takes no argument {name}",
                allowed=None if guess else ", ".join(n for n in names if n not in runtime) or "none",
                suggestion=f"{key}.{guess}" if guess else None,
            )
    if node.get("_partial_") or (
        key == "task" and inspect.isfunction(found)
    ):  # a task may be a loss of (output, target)
        return
    positional = len(node.get("_args_", ())) or (1 if runtime and not set(runtime) & set(names) else 0)
    free = [n for n in names if n not in given and n not in runtime][positional:]
    for name in free:
        if parameters[name].default is inspect.Parameter.empty:
            yield Problem(
                key=f"{key}._target_",
                value=node["_target_"],
                what=f"needs the argument {name}",
                fix=f"{key}.{name}=VALUE",
            )
