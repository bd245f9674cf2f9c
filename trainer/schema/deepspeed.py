"""A user's DeepSpeed JSON: what it must agree with, and what of it reaches DeepSpeed. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import optim, scheduler
from .config import Config
from .parallel import DeepSpeed, OffloadDevice

AUTO = "auto"
MAX_BYTES, MAX_DEPTH = 1 << 20, 50
"""As of a YAML file: real ones have a few kB and five levels."""
OURS = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "optimizer", "scheduler", "fp16", "bf16", "bfloat16", "torch_autocast", "zero_optimization",
    "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
)  # fmt: skip
"""Keys whose content is this config's: compared with it, then generated from it."""
ELSEWHERE = (
    "amp", "autotuning", "compression_training", "curriculum_learning", "data_efficiency", "eigenvalue", "elasticity",
    "hybrid_engine", "progressive_layer_drop", "quantize_training", "sparse_attention", "tensor_parallel", "pipeline",
)  # fmt: skip
"""Sections that change the training itself, behind the loop's back."""
OPTIMIZERS: dict[str, type] = {"adamw": optim.AdamW, "adam": optim.AdamW, "sgd": optim.SGD, "adagrad": optim.Adagrad}
"""DeepSpeed's optimizer types (in lower case; its Adam decays weights as AdamW unless adam_w_mode is false)."""
SCHEDULERS: dict[str, tuple[type, str]] = {
    "WarmupLR": (scheduler.Warmup, "constant_with_warmup"),
    "WarmupDecayLR": (scheduler.Linear, "linear"),
    "WarmupCosineLR": (scheduler.Cosine, "cosine"),
}
"""DeepSpeed's schedules -> the class and the option here."""
FIELDS = ("zero_stage", "reduce_bucket_size", "overlap_comm", "offload_optimizer", "offload_param")
"""Of parallel=deepspeed, which zero_optimization replaces."""

_STAGE_3 = (
    "prefetch_bucket_size", "param_persistence_threshold", "max_live_parameters", "max_reuse_distance",
    "gather_16bit_weights_on_model_save",
)  # fmt: skip
_FULL = {name: f"stage3_{name}" for name in _STAGE_3} | {
    "stage3_gather_fp16_weights_on_model_save": "stage3_gather_16bit_weights_on_model_save"
}
"""Names that DeepSpeed also takes without their prefix, or has renamed."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key of the file that says something else than the config."""

    key: str
    value: Any
    ours: str
    """The config's key and value, in words."""

    def __str__(self) -> str:
        return f"{self.key}={json.dumps(self.value)} but {self.ours}"


def read(path: str | Path) -> dict[str, Any]:
    """The file's content. Raises ValueError where it is no JSON object or too large, OSError where it is not there."""
    with Path(path).expanduser().open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"is longer than {MAX_BYTES} bytes")
    try:
        content = json.loads(raw)
        too_deep = _depth(content) > MAX_DEPTH
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(content, dict):
        raise ValueError("is not a JSON object")
    return content


def _depth(node: Any) -> int:
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return 1 + max(map(_depth, inside), default=0)


def conflicts(given: dict[str, Any], config: Config) -> Iterator[Conflict]:
    """Everything in which the file contradicts the config."""
    train, precision, node = config.train, config.precision, config.parallel
    size, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    yield from _differs(given, "train_micro_batch_size_per_gpu", size, "train.per_device_train_batch_size")
    yield from _differs(given, "gradient_accumulation_steps", accumulation, "train.gradient_accumulation_steps")
    yield from _differs(given, "gradient_clipping", train.max_grad_norm, "train.max_grad_norm")
    yield from _batch(given, config)
    for section, ours in (("fp16", precision.fp16), ("bf16", precision.bf16), ("bfloat16", precision.bf16)):
        # a section without `enabled` is off
        yield from _differs(_part(given, section), "enabled", ours, f"precision.{section[:4]}", section)
    if isinstance(given.get("optimizer"), dict):
        yield from _optimizer(given["optimizer"], config)
    if isinstance(given.get("scheduler"), dict):
        yield from _scheduler(given["scheduler"], config)
    for section in ELSEWHERE:
        part = given.get(section)
        off = not part or (isinstance(part, dict) and part.get("enabled", part.get("autotp_size", 1) > 1) is False)
        if not off:
            yield Conflict(section, part, "this trainer's loop does not do that")
    if isinstance(node, DeepSpeed):
        usual = DeepSpeed()
        for name in FIELDS:
            default, value, theirs = getattr(usual, name), getattr(node, name), zero_value(given, name)
            if value != default and theirs not in (None, AUTO) and theirs != value:
                key = "stage" if name == "zero_stage" else name
                yield Conflict(f"zero_optimization.{key}", theirs, f"parallel.{name}={value}")


def zero_value(given: dict[str, Any], name: str) -> Any:
    """What the file's zero_optimization says of one of our fields; None where it says nothing."""
    zero = _part(given, "zero_optimization")
    if name == "zero_stage":
        return zero.get("stage", 0)
    if name.startswith("offload_"):
        part = zero.get(name)
        if part is None and zero.get(f"cpu_{name}"):  # DeepSpeed's older spelling
            return "cpu"
        return part.get("device", "none") if isinstance(part, dict) else None
    return zero.get(name)


def effective(node: DeepSpeed) -> DeepSpeed:
    """``node`` with what its JSON says in the place of the fields; what is 'auto' there stays."""
    if node.config is None:
        return node
    said: dict[str, Any] = {name: zero_value(node.config, name) for name in FIELDS}
    for name in ("offload_optimizer", "offload_param"):
        said[name] = OffloadDevice(said[name] or "none")
    return replace(node, **{name: value for name, value in said.items() if value not in (None, AUTO)})


def autos(given: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys whose value is 'auto'."""
    for key, value in given.items():
        if isinstance(value, dict):
            yield from autos(value, f"{prefix}{key}.")
        elif value == AUTO:
            yield f"{prefix}{key}"


def without_autos(given: dict[str, Any]) -> dict[str, Any]:
    """A copy that leaves to DeepSpeed what is 'auto'."""
    return {
        key: without_autos(value) if isinstance(value, dict) else value for key, value in given.items() if value != AUTO
    }


def passed_on(given: dict[str, Any], hidden_size: int | None) -> dict[str, Any]:
    """What of a file reaches DeepSpeed: its own sections, and zero_optimization with 'auto' filled from the model's
    width as transformers does."""
    rest = {key: value for key, value in given.items() if key not in (*OURS, *ELSEWHERE)}
    zero = {_FULL.get(key, key): value for key, value in _part(given, "zero_optimization").items()}
    if hidden_size:
        filled = {
            "reduce_bucket_size": hidden_size**2,
            "stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
            "stage3_param_persistence_threshold": 10 * hidden_size,
        }
        zero |= {key: value for key, value in filled.items() if zero.get(key) == AUTO}
    return without_autos(rest) | {"zero_optimization": without_autos(zero)}


def _part(given: dict[str, Any], section: str) -> dict[str, Any]:
    part = given.get(section)
    return part if isinstance(part, dict) else {}


def _differs(given: dict[str, Any], key: str, value: Any, ours: str, section: str = "") -> Iterator[Conflict]:
    theirs = given.get(key)
    if theirs is None or theirs == AUTO or value is None:
        return
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (theirs, value))
    same = math.isclose(theirs, value, rel_tol=1e-9) if numbers else theirs == value
    if not same:
        yield Conflict(f"{section}.{key}" if section else key, theirs, f"{ours}={json.dumps(value)}")


def _batch(given: dict[str, Any], config: Config) -> Iterator[Conflict]:
    whole, launch = given.get("train_batch_size"), config.launch
    if not isinstance(whole, int):
        return
    update = config.train.per_device_train_batch_size * config.train.gradient_accumulation_steps
    words = "train.per_device_train_batch_size x train.gradient_accumulation_steps"
    if launch.nproc_per_node is not None:
        update, words = update * launch.nproc_per_node * launch.nnodes, f"{words} x ranks"
    if whole != update if launch.nproc_per_node is not None else whole % update:
        yield Conflict("train_batch_size", whole, f"{words}={update}")


def _optimizer(given: dict[str, Any], config: Config) -> Iterator[Conflict]:
    node, kind, params = config.optim, str(given.get("type", "")), _part(given, "params")
    target = getattr(node, "_target_", None) or (node.get("_target_") if isinstance(node, dict) else None)
    wanted = OPTIMIZERS.get(kind.lower())
    if kind.lower() == "adam" and params.get("adam_w_mode") is False:
        wanted = optim.Adam
    if wanted is None or not isinstance(node, wanted):
        yield Conflict("optimizer.type", kind, f"optim._target_={target}")
    yield from _differs(params, "lr", getattr(node, "learning_rate", None), "optim.learning_rate", "optimizer.params")
    decay = getattr(node, "weight_decay", None)
    yield from _differs(params, "weight_decay", decay, "optim.weight_decay", "optimizer.params")
    yield from _differs(params, "eps", getattr(node, "adam_epsilon", None), "optim.adam_epsilon", "optimizer.params")
    betas = params.get("betas")
    if isinstance(betas, list) and hasattr(node, "adam_beta1") and AUTO not in betas:
        ours = [node.adam_beta1, node.adam_beta2]
        yield from _differs(params, "betas", ours, "[optim.adam_beta1, optim.adam_beta2]", "optimizer.params")


def _scheduler(given: dict[str, Any], config: Config) -> Iterator[Conflict]:
    node, kind, params, where = config.scheduler, given.get("type"), _part(given, "params"), "scheduler.params"
    wanted = SCHEDULERS.get(str(kind))
    if wanted is None or type(node) is not wanted[0]:
        target = type(node).__name__ if not isinstance(node, dict) else node.get("_target_")
        yield Conflict("scheduler.type", kind, f"scheduler is {target}")
    yield from _differs(params, "warmup_min_lr", 0, "the schedule's start", where)
    yield from _differs(
        params, "warmup_max_lr", getattr(config.optim, "learning_rate", None), "optim.learning_rate", where
    )
    if not getattr(node, "warmup_ratio", 0):
        yield from _differs(
            params, "warmup_num_steps", getattr(node, "warmup_steps", None), "scheduler.warmup_steps", where
        )
    if config.train.max_steps > 0:
        yield from _differs(params, "total_num_steps", config.train.max_steps, "train.max_steps", where)
    yield from _differs(params, "warmup_type", "linear", "the warm-up is", where)
