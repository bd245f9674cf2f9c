"""A user's DeepSpeed JSON: what it must agree with, and what of it reaches DeepSpeed. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from . import optim, scheduler
from .config import Config
from .parallel import DeepSpeed, OffloadDevice

AUTO = "auto"
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
OFFLOAD = {"offload_optimizer": "cpu_offload", "offload_param": "cpu_offload_param"}
"""Sections of zero_optimization -> DeepSpeed's older switch for the same on the CPU."""

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
        usual, said = DeepSpeed(), read_zero(given).fields
        for name in FIELDS:
            default, value, theirs = getattr(usual, name), getattr(node, name), said.get(name)
            if value != default and theirs not in (None, AUTO) and theirs != value:
                key = "stage" if name == "zero_stage" else name
                yield Conflict(f"zero_optimization.{key}", theirs, f"parallel.{name}={value}")


@dataclass(frozen=True, slots=True)
class ZeroSection:
    """What a zero_optimization says, sorted."""

    fields: dict[str, Any]
    """Fields of parallel=deepspeed -> value: always zero_stage, the others where they are given."""
    rest: dict[str, Any]
    """Every other key, by DeepSpeed's current name; those of an offload section as `offload_param.buffer_count`."""


def read_zero(given: dict[str, Any]) -> ZeroSection:
    """The zero_optimization of a whole JSON."""
    zero = _canonical(given)
    fields: dict[str, Any] = {"zero_stage": zero.pop("stage", 0)}
    fields |= {name: zero.pop(name) for name in ("reduce_bucket_size", "overlap_comm") if name in zero}
    paths: dict[str, Any] = {}
    for name, older in OFFLOAD.items():
        section = zero.pop(name, None)
        if isinstance(section, dict):
            fields[name] = device = section.get("device", "none")
            zero |= {f"{name}.{key}": value for key, value in section.items() if key not in ("device", "nvme_path")}
            if device == OffloadDevice.nvme:
                paths[f"{name}.nvme_path"] = section.get("nvme_path")
        elif zero.pop(older, False):
            fields[name] = "cpu"
    given_paths = {key: path for key, path in paths.items() if path is not None}
    if len(given_paths) == len(paths) and len(set(given_paths.values())) == 1:
        fields["nvme_path"] = next(iter(given_paths.values()))
    else:  # one section's, or different ones
        zero |= given_paths
    return ZeroSection(fields, zero)


def write_zero(node: DeepSpeed, *, pin_memory: bool = False) -> dict[str, Any]:
    """The fields as a zero_optimization. ``pin_memory`` holds for what is offloaded."""
    zero: dict[str, Any] = {
        "stage": node.zero_stage,
        "reduce_bucket_size": node.reduce_bucket_size,
        "overlap_comm": node.overlap_comm,
    }
    for name in OFFLOAD:
        device = getattr(node, name)
        if device is not OffloadDevice.none:
            zero[name] = {"device": str(device)} | ({"pin_memory": True} if pin_memory else {})
            if device is OffloadDevice.nvme:
                zero[name]["nvme_path"] = node.nvme_path
    return zero


def effective(node: DeepSpeed) -> DeepSpeed:
    """``node`` with what its JSON says in the place of the fields; what is 'auto' there stays."""
    if node.config is None:
        return node
    said = {name: value for name, value in read_zero(node.config).fields.items() if value not in (None, AUTO)}
    for name in OFFLOAD:
        said[name] = OffloadDevice(said.get(name, "none"))
    return replace(node, **said)


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
    zero = _canonical(given)
    if hidden_size:
        filled = {
            "reduce_bucket_size": hidden_size**2,
            "stage3_prefetch_bucket_size": int(0.9 * hidden_size**2),
            "stage3_param_persistence_threshold": 10 * hidden_size,
        }
        zero |= {key: value for key, value in filled.items() if zero.get(key) == AUTO}
    return without_autos(rest) | {"zero_optimization": without_autos(zero)}


def _canonical(given: dict[str, Any]) -> dict[str, Any]:
    """A copy of zero_optimization under DeepSpeed's current names."""
    return {_FULL.get(key, key): value for key, value in _part(given, "zero_optimization").items()}


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
    expected = OPTIMIZERS.get(kind.lower())
    if kind.lower() == "adam" and params.get("adam_w_mode") is False:
        expected = optim.Adam
    if expected is None or not isinstance(node, expected):
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
    expected = SCHEDULERS.get(str(kind))
    if expected is None or type(node) is not expected[0]:
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
