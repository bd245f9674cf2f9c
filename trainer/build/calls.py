"""Whether the objects that a config names are there, and take the arguments that it gives them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from typing import Any

from ..errors import Problem, closest
from ..schema import OPTIONS, Config
from ..schema.data import named_sets
from ..schema.optim_args import BETAS, parse
from ..schema.tree import slots
from .build import SPECIAL
from .policy import Refused, check_name, locate


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
    for name, value in _items(node):
        if name == "_target_":
            yield f"{key}.{name}", value
        else:
            yield from _targets(f"{key}.{name}", value)


def _default_target(node: Any) -> Any:
    return next(f.default for f in fields(node) if f.name == "_target_")


CORE = ("torch", "trainer")
"""Always there."""


def check_names(config: Config) -> Iterator[Problem]:
    """The policy, on every name at any depth, and whether the named packages are installed. Imports nothing."""
    named = [
        (k, v)
        for key, node in _objects(config)
        for k, v in _targets(key, node)
        # an option's own target is on the list; config/machine.py looks for its package
        if not (is_dataclass(node) and k == f"{key}._target_" and v == _default_target(node))
    ]
    named += functions(config)
    for key, name in named:
        if not isinstance(name, str):
            yield Problem(
                key=key, value=name, what="is not the dotted name of a class or function, as package.module.Class"
            )
        elif refused := _refused(key, name):
            yield refused
        elif name.split(".")[0] not in (*CORE, *sys.modules) and find_spec(name.split(".")[0]) is None:
            package = name.split(".")[0]
            yield Problem(key=key, value=name, what=f"there is no package {package} here", fix=f"pip install {package}")
    if not config.run.trust_remote_code:
        for key, node in _objects(config):
            yield from _remote_code(key, node)


REMOTE_CODE: dict[str, Callable[[Any], bool]] = {
    "trust_remote_code": bool,
    "weights_only": lambda value: value is not None and not value,
    "allow_pickle": bool,
    "use_kernels": bool,
    # a kernel from the Hub: OWNER/REPOSITORY
    "attn_implementation": lambda value: isinstance(value, str) and "/" in value,
}
"""Arguments with which transformers, datasets, torch or numpy run code out of what they load, and when they do."""


def _remote_code(key: str, node: Any) -> Iterator[Problem]:
    """What would run code that comes with a model or a data set."""
    fix = "run.trust_remote_code=true on the command line"
    for name, value in _items(node):
        inner = f"{key}.{name}"
        if REMOTE_CODE.get(str(name), lambda _: False)(value):
            yield Problem(key=inner, value=value, what="runs code that comes with what it loads", fix=fix)
        yield from _remote_code(inner, value)
    if isinstance(node, dict) and node.get("_target_") == "datasets.load_dataset":
        path = node.get("path", next(iter(node.get("_args_", ())), ""))
        if path in ("pandas", "spark", "sql", "generator") or str(path).endswith(".py"):
            what = "runs code: this format is read with pickle, SQL or a script"
            yield Problem(key=f"{key}.path", value=path, what=what, fix=fix)


def _items(node: Any) -> list[tuple[Any, Any]]:
    if is_dataclass(node) and not isinstance(node, type):
        return [(f.name, getattr(node, f.name)) for f in fields(node)]
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list | tuple) else []


RUNTIME: dict[str, tuple[str, ...]] = {
    "optim": ("params",),
    "scheduler": ("optimizer", "num_training_steps"),
    "parallel": ("precision", "device"),
}
"""What the runner passes to a foreign object besides its own keys, as positional arguments or under these names."""


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
    """optim_args names arguments of the class, that are not fields of its option."""
    own = {f.name for f in fields(node)} if is_dataclass(node) else set()
    try:
        given = [name for name in parse(getattr(node, "optim_args", None)) if name not in own]
    except ValueError:  # reported by checks/optim.py
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


def _refused(key: str, name: str) -> Problem | None:
    try:
        check_name(name)
    except Refused as error:
        return Problem(key=key, value=name, what=error.reason, fix=error.fix)
    return None


def _import(key: str, name: str) -> tuple[Any, Problem | None]:
    try:
        return locate(name), None
    except Refused as error:
        return None, Problem(key=key, value=name, what=error.reason, fix=error.fix)
    except (Exception, SystemExit) as error:  # importing runs the user's module: it may raise anything
        reason = " ".join(str(error).split()) or "no reason given"
        return None, Problem(key=key, value=name, what=f"cannot be imported: {type(error).__name__}: {reason}")


def _check_call(key: str, node: dict[str, Any], runtime: tuple[str, ...]) -> Iterator[Problem]:
    if "_target_" not in node:  # reported by examine.without_target
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
        if child not in SPECIAL or child == "_args_":
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
