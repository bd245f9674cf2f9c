"""Settings that say what may run, and where they may stand: a config from elsewhere permits itself nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import COMMAND_LINE, DEFAULT, Problem
from ..schema.tree import sections
from ..secrets import MASK
from . import nodes
from .draft import Draft
from .sources import conf_directory

ALLOW, REMOTE = "run.allow_packages", "run.trust_remote_code"
ENVIRONMENT = "hydra.job.env_set"

_VARIABLE = re.compile(
    r"(OMP|KMP|MKL|OPENBLAS|NCCL|GLOO|CUDA|CUBLAS|CUDNN|NVIDIA|TORCH|TORCHINDUCTOR|PYTORCH|HF|TRANSFORMERS|DATASETS"
    r"|WANDB|MLFLOW|COMET|NEPTUNE|CLEARML|SWANLAB|TOKENIZERS|TF|XLA|PJRT|HIP|ROCR|HSA|UCX|FI|DS|TQDM)_\w+"
    r"|TZ|LANG|LC_\w+|NO_COLOR|COLUMNS"
)
_LOADS = re.compile(
    # names a file to run or write, a library to load, a server to talk to, or switches a guard off
    r"PATH|DIR|HOME|FILE|PLUGIN|LIB|EXEC|CMD|COMMAND|PRELOAD|TOOL|TRUST|WEIGHTS_ONLY|CACHE|_OUT|PIPE|URI|URL|ENDPOINT"
    r"|PROXY|AUTOLOAD|INJECTION|CONF|HOOK|SCRIPT|LAUNCH|CC$|CXX|NVCC|TEST|DUMP|TRACE|HOST|SERVER|_TOKEN|_KEY|XLA_FLAGS"
)
_HARMLESS = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_TOKEN",
    "CUDA_LAUNCH_BLOCKING",
    "WANDB_DIR",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
)
"""Harmless or needed, although `_LOADS` finds them."""


def check(draft: Draft) -> Iterator[Problem]:
    """What a file sets that only the command line, or the project's own conf/, may set."""
    yield from _check_packages(draft)
    remote = nodes.select(draft.cfg, REMOTE)
    if remote is not None and nodes.raw(remote) is not False and draft.origins[REMOTE] != COMMAND_LINE:
        what, fix = "is taken only from the command line", f"{REMOTE}=true on the command line"
        yield Problem(key=REMOTE, value=nodes.raw(remote), origin=draft.origins[REMOTE], what=what, fix=fix)
    yield from _check_environment(draft)
    for key in ("hydra.job_logging", "hydra.hydra_logging"):
        yield from _check_factories(key, nodes.select(draft.cfg, key), draft)


def typed_secrets(overrides: Iterable[str]) -> Iterator[str]:
    """A line for each secret of the schema that the command line gives: which environment variable to set instead."""
    for line in overrides:
        key, _, value = line.lstrip("+").partition("=")
        section, _, name = key.rpartition(".")
        for field in fields(sections()[section]) if section in sections() else ():
            if field.name == name and "secret" in field.metadata and value not in ("", "null"):
                yield (
                    f"{key}={MASK} ({COMMAND_LINE}): stays in the shell's history and in the list of processes; "
                    f"fix: {field.metadata['secret']}=... in the environment instead"
                )


def _check_packages(draft: Draft) -> Iterator[Problem]:
    packages, origin = nodes.select(draft.cfg, ALLOW), draft.origins[ALLOW]
    if packages is None or nodes.raw(packages) == [] or origin in (COMMAND_LINE, DEFAULT):
        return
    file = Path(origin.rpartition(":")[0]).resolve()
    if not any(file.is_relative_to(own.resolve()) for own in (Path("conf"), conf_directory())):
        what = "is taken only from the command line and the working directory's conf/"
        yield Problem(key=ALLOW, origin=origin, what=what, fix=f"{ALLOW}=[PACKAGE] on the command line")


def _check_environment(draft: Draft) -> Iterator[Problem]:
    try:
        variables = [str(name) for name in OmegaConf.select(draft.cfg, ENVIRONMENT) or ()]
        copied = set(OmegaConf.select(draft.cfg, "hydra.job.env_copy") or ())
    except OmegaConfBaseException:  # reported by settings.py
        return
    for name in variables:
        key = f"{ENVIRONMENT}.{name}"
        if name in copied or draft.origins[key] == COMMAND_LINE or is_harmless(name):
            continue
        what = "is taken only from the command line: a variable like it can load code"
        yield Problem(key=key, origin=draft.origins[key], what=what, fix=f"++{key}=VALUE on the command line")


def is_harmless(name: str) -> bool:
    """Whether a file may set the environment variable ``name``."""
    return name in _HARMLESS or (_VARIABLE.fullmatch(name) is not None and _LOADS.search(name) is None)


def _check_factories(key: str, node: Any, draft: Draft) -> Iterator[Problem]:
    if isinstance(node, DictConfig) and nodes.has_keys(node):
        for name in map(str, node):
            child = nodes.child(node, name)
            if name == "()":
                what = "a factory is not called: logging is set up by the run itself"
                yield Problem(key=f"{key}.()", origin=draft.origins[f"{key}.()"], what=what, fix=f"~{key}")
            else:
                yield from _check_factories(f"{key}.{name}", child, draft)
    elif isinstance(node, ListConfig) and not nodes.is_none(node):
        for i in range(len(node)):
            yield from _check_factories(f"{key}.{i}", nodes.child(node, i), draft)
