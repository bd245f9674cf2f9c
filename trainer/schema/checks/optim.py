"""Rules of checks.py about optimizers: packages, optim_args, engines that shard, the length of schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import Any

from ...errors import Problem
from .. import optim, parallel, scheduler
from ..config import Config
from ..optim_args import parse
from ..train import NanPolicy

SHARDED = (
    *(optim.AdamW, optim.Adam, optim.NAdam, optim.RAdam, optim.Adamax, optim.Adadelta),
    *(optim.ASGD, optim.Rprop, optim.SGD, optim.LOMO, optim.Adagrad, optim.RMSprop),
)
"""Update each element by itself, with torch's own operations: parallel=fsdp and zero1-3 may hold any part of it."""

WHOLE_MATRICES = (optim.Adafactor, optim.Muon)
"""Written for FSDP2's sharded matrices; ZeRO's flat slices are none."""


def engines(config: Config) -> Iterator[Problem]:
    """Optimizers that an engine which shards parameters would break, late or silently (Adafactor is not factored on
    ZeRO's flat slices)."""
    node, engine = config.optim, config.parallel
    if not isinstance(node, optim.Optim) or not isinstance(engine, parallel.FSDP | parallel.DeepSpeed):
        return
    name, fix = ("ZeRO", "parallel=fsdp") if isinstance(engine, parallel.DeepSpeed) else ("FSDP", "parallel=ddp")
    if isinstance(node, SHARDED) or (isinstance(node, WHOLE_MATRICES) and name == "FSDP"):
        return
    if getattr(node, "layerwise", False):  # told below
        return
    if not isinstance(node, WHOLE_MATRICES):
        fix = "parallel=ddp"
    what = f"works on whole parameters, {name} shards them"
    yield Problem(key="optim", value=type(node).__name__, what=what, fix=fix, related=("parallel",))


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
            what = "excludes optim.layerwise=true, which has used each gradient before the next one is there"
            yield Problem(key=key, value=value, what=what, fix=f"{key}={fix}", related=("optim",))
    if not isinstance(engine, parallel.Single | parallel.DDP):
        what = "works on whole parameters of one rank"
        yield Problem(key="optim.layerwise", value=True, what=what, fix="parallel=single", related=("parallel",))


def arguments(config: Config) -> Iterator[Problem]:
    """optim_args can be read, and what it sets of our fields is of their types and bounds."""
    from .check import _bounds, optimizers

    node, key = config.optim, "optim.optim_args"
    if not isinstance(node, optim.Optim):
        return
    try:
        given = parse(node.optim_args)
    except ValueError as error:
        yield Problem(key=key, value=node.optim_args, what=str(error), fix='optim.optim_args="name=1,other=0.5"')
        return
    declared = {f.name: str(f.type) for f in fields(node)}
    own = {name: value for name, value in given.items() if name in declared}
    for name, value in own.items():
        elsewhere = name in ("_target_", "optim_args", "layerwise")
        if elsewhere or not fits(value, declared[name]):
            word = "set here" if elsewhere else _WORDS.get(declared[name].split(" |")[0], "of its type")
            what, fix = f"{name} is not {word}", f"optim.{name}=VALUE"
            yield Problem(key=key, value=f"{name}={value}", what=what, fix=fix)
            return
    if own:
        merged = replace(node, **own)
        yield from _bounds(merged, "optim")
        yield from optimizers(replace(config, optim=merged))


_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "list[float]": "a list of numbers"}


def fits(value: Any, declared: str) -> bool:
    """Whether a value of optim_args is of a field's type."""
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    if value is None:
        return "None" in declared or declared == "Any"
    kind = declared.split(" |")[0]
    if kind == "bool" and value in (0, 1):
        return True
    return kind not in kinds or (isinstance(value, kinds[kind]) and (kind == "bool" or not isinstance(value, bool)))


def own_conditions(config: Config) -> Iterator[Problem]:
    """What the packages' classes would say only when built."""
    node = config.optim
    if isinstance(node, optim.Rprop) and node.weight_decay:
        what, fix = "is not taken by Rprop", "optim.weight_decay=0"
        yield Problem(key="optim.weight_decay", value=node.weight_decay, what=what, fix=fix)
    if not _from_a_package(node):
        return
    from .. import optim_packages as packages

    if isinstance(node, packages.BitsAndBytes) and node.optim_bits not in (8, 32):
        what, fix = "there is no such width", "optim.optim_bits=8"
        yield Problem(key="optim.optim_bits", value=node.optim_bits, what=what, allowed="8, 32", fix=fix)
    if isinstance(node, packages.ApolloAdamW) and node.proj_type is packages.Projection.full:
        what, fix = "is not offered by apollo-torch", "optim.proj_type=std"
        yield Problem(key="optim.proj_type", value="full", what=what, allowed="std, reverse_std, right, left", fix=fix)
    if isinstance(node, packages.Projected):
        yield from _target_modules(node.optim_target_modules)


def _from_a_package(node: Any) -> bool:
    """Whether the node's class is one of optim_packages, which takes 10 ms to import."""
    return type(node).__module__.endswith(".optim_packages")


def _target_modules(wanted: Any) -> Iterator[Problem]:
    key, fix = "optim.optim_target_modules", "optim.optim_target_modules=all-linear"
    words = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        what = "is neither a text nor a list of texts"
        yield Problem(key=key, value=wanted, what=what, allowed="all-linear, a regular expression or a list", fix=fix)
        return
    for word in words:
        try:
            re.compile(word)
        except re.error as error:
            yield Problem(key=key, value=word, what=f"is no regular expression: {error}", fix=fix)


def needed_package(config: Config) -> Iterator[Problem]:
    """The optimizer's package is installed (found, not imported)."""
    if not _from_a_package(config.optim):
        return
    from .. import optim_packages as packages

    for cls, (module, cure) in packages.PACKAGES.items():
        if isinstance(config.optim, cls) and find_spec(module) is None:
            yield Problem(key="optim", what=f"needs the package {module}, which is not installed", fix=cure)


def decay_fits(config: Config) -> Iterator[Problem]:
    """warmup_stable_decay's phases fit into max_steps, where that is given."""
    node, total = config.scheduler, config.train.max_steps
    if not isinstance(node, scheduler.WarmupStableDecay) or node.num_decay_steps is None or total < 1:
        return
    warmup = node.warmup_steps or math.ceil(total * node.warmup_ratio)
    if node.num_stable_steps is None and warmup + node.num_decay_steps > total:
        what = f"and {warmup} steps of warmup are more than train.max_steps={total}"
        fix, related = f"scheduler.num_decay_steps={max(0, total - warmup)}", ("train.max_steps",)
        key = "scheduler.num_decay_steps"
        yield Problem(key=key, value=node.num_decay_steps, what=what, fix=fix, related=related)


RULES = (engines, layerwise, arguments, own_conditions, needed_package, decay_fits)
