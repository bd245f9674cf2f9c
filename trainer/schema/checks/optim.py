"""Rules of `optim`: engines that shard, optim_args, and what the optimizers' classes would say only when built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from ...errors import Problem
from .. import optim, parallel
from ..config import Config
from ..optim_args import parse
from ..train import NanPolicy
from .bounds import out_of_bounds
from .sentences import excludes, needs, outside, wrong

SHARDED = (
    *(optim.AdamW, optim.Adam, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adadelta),
    *(optim.ASGD, optim.Rprop, optim.SGD, optim.LOMO, optim.Adagrad, optim.RMSprop),
)
"""Update each element by itself, with torch's own operations: parallel=fsdp and zero1-3 may hold any part of it."""

WHOLE_MATRICES = (optim.Adafactor, optim.Muon)
"""Written for FSDP2's sharded matrices, but not for ZeRO's flat slices."""


def engines(config: Config) -> Iterator[Problem]:
    """Optimizers that an engine which shards parameters would break, late or silently (Adafactor is not factored on
    ZeRO's flat slices)."""
    node, engine = config.optim, config.parallel
    if not isinstance(node, optim.Optim) or not isinstance(engine, parallel.FSDP | parallel.DeepSpeed):
        return
    name, fix = ("ZeRO", "parallel=fsdp") if isinstance(engine, parallel.DeepSpeed) else ("FSDP", "parallel=ddp")
    if isinstance(node, SHARDED) or (isinstance(node, WHOLE_MATRICES) and name == "FSDP"):
        return
    if getattr(node, "layerwise", False):  # reported by layerwise()
        return
    if not isinstance(node, WHOLE_MATRICES):
        fix = "parallel=ddp"
    what = f"works on whole parameters, {name} shards them"
    yield wrong("optim", type(node).__name__, what, fix=fix, related=("parallel",))


def layerwise(config: Config) -> Iterator[Problem]:
    """Updates inside backward come before what needs all gradients at once, or those of several ranks."""
    if not getattr(config.optim, "layerwise", False):
        return
    train, engine, launch = config.train, config.parallel, config.launch
    excluded = [
        ("train.max_grad_norm", train.max_grad_norm, train.max_grad_norm > 0, "0"),
        ("train.gradient_accumulation_steps", steps := train.gradient_accumulation_steps, steps > 1, "1"),
        ("train.nan_policy", train.nan_policy, train.nan_policy is NanPolicy.skip, "rollback"),
        ("precision.fp16", config.precision.fp16, config.precision.fp16, "false"),
        ("launch.nproc_per_node", ranks := launch.nproc_per_node, (ranks or 1) > 1, "1"),
        ("launch.nnodes", launch.nnodes, launch.nnodes > 1, "1"),
    ]
    for key, value, is_wrong, fix in excluded:
        if is_wrong:
            other = "optim.layerwise=true, which has used each gradient before the next one is there"
            yield excludes(key, value, other, fix=f"{key}={fix}", related=("optim",))
    if not isinstance(engine, parallel.Single | parallel.DDP):
        what = "works on whole parameters of one rank"
        yield wrong("optim.layerwise", True, what, fix="parallel=single", related=("parallel",))


def optim_args(config: Config) -> Iterator[Problem]:
    """optim_args can be read, and what it sets of our fields is of their types and bounds."""
    node, key = config.optim, "optim.optim_args"
    if not isinstance(node, optim.Optim):
        return
    try:
        given = parse(node.optim_args)
    except ValueError as error:
        yield wrong(key, node.optim_args, str(error), fix='optim.optim_args="name=1,other=0.5"')
        return
    declared = {f.name: str(f.type) for f in fields(node)}
    own = {name: value for name, value in given.items() if name in declared}
    for name, value in own.items():
        elsewhere = name in ("_target_", "optim_args", "layerwise")
        if elsewhere or not fits(value, declared[name]):
            kind = "set here" if elsewhere else _KINDS.get(declared[name].split(" |")[0], "of its type")
            yield wrong(key, f"{name}={value}", f"{name} is not {kind}", fix=f"optim.{name}=VALUE")
            return
    if own:
        merged = replace(node, **own)
        yield from out_of_bounds(merged, "optim")
        yield from arguments(replace(config, optim=merged))


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "list[float]": "a list of numbers"}


def fits(value: Any, declared: str) -> bool:
    """Whether a value of optim_args is of a field's type."""
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    if value is None:
        return "None" in declared or declared == "Any"
    kind = declared.split(" |")[0]
    if kind == "bool" and value in (0, 1):
        return True
    return kind not in kinds or (isinstance(value, kinds[kind]) and (kind == "bool" or not isinstance(value, bool)))


def arguments(config: Config) -> Iterator[Problem]:
    """torch's own conditions on an optimizer's arguments."""
    node = config.optim
    if getattr(node, "foreach", None) and getattr(node, "fused", None):
        yield excludes("optim.foreach", True, "optim.fused=true", fix="optim.foreach=null")
    if getattr(node, "nesterov", False) and hasattr(node, "dampening") and (node.momentum <= 0 or node.dampening != 0):
        yield needs("optim.nesterov", True, "optim.momentum above 0 and optim.dampening=0", fix="optim.momentum=0.9")
    if isinstance(node, optim.Rprop) and node.weight_decay:
        yield wrong("optim.weight_decay", node.weight_decay, "is not taken by Rprop", fix="optim.weight_decay=0")


def packaged(config: Config) -> Iterator[Problem]:
    """The conditions of other packages' classes."""
    node = config.optim
    if not is_packaged(node):
        return
    from .. import optim_packages as packages

    if isinstance(node, packages.BitsAndBytes) and node.optim_bits not in (8, 32):
        yield outside("optim.optim_bits", node.optim_bits, "there is no such width", "8, 32", fix="optim.optim_bits=8")
    if isinstance(node, packages.ApolloAdamW) and node.proj_type is packages.Projection.full:
        what, allowed = "is not offered by apollo-torch", "std, reverse_std, right, left"
        yield outside("optim.proj_type", "full", what, allowed, fix="optim.proj_type=std")
    if isinstance(node, packages.Projected):
        yield from _target_modules(node.optim_target_modules)


def is_packaged(node: Any) -> bool:
    """Whether the node's class is one of optim_packages, which takes 10 ms to import."""
    return type(node).__module__.endswith(".optim_packages")


def _target_modules(given: Any) -> Iterator[Problem]:
    key, fix = "optim.optim_target_modules", "optim.optim_target_modules=all-linear"
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        what, allowed = "is neither a text nor a list of texts", "all-linear, a regular expression or a list"
        yield outside(key, given, what, allowed, fix=fix)
        return
    for word in words:
        try:
            re.compile(word)
        except re.error as error:
            yield wrong(key, word, f"is not a valid regular expression: {error}", fix=fix)


RULES = (engines, layerwise, optim_args, arguments, packaged)
