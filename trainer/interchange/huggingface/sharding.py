"""FSDP's and DeepSpeed's own configurations, as TrainingArguments holds them, in our words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...schema import OPTIONS
from ...schema import huggingface as hf
from ...schema.deepspeed import read_zero
from .translation import Translation

TWINS = {
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "gradient_clipping": "max_grad_norm",
}
"""DeepSpeed's keys -> the arguments they repeat."""
SILENT = ("train_batch_size", "steps_per_print", "wall_clock_breakdown")
"""A product of others, and reports that are this trainer's business."""


def fsdp(to: Translation, words: list[str], config: dict[str, Any]) -> None:
    """The words of `fsdp` and the keys of `fsdp_config` as fields of parallel=fsdp."""
    if "shard_grad_op" in words:
        config.setdefault("reshard_after_forward", False)
    if "offload" in words:
        config.setdefault("cpu_offload", True)
    if any(word.startswith("hybrid") for word in words):
        to.result.choices["parallel"] = "fsdp_hybrid"
        if "hybrid_shard_zero2" in words:
            config.setdefault("reshard_after_forward", False)
    if config.get("min_num_params") and config.get("auto_wrap_policy") != "SIZE_BASED_WRAP":
        what = "the Trainer ignores it without auto_wrap_policy=SIZE_BASED_WRAP"
        to.remark("fsdp_config.min_num_params", config.pop("min_num_params"), what)
    if isinstance(wrap := config.get("transformer_layer_cls_to_wrap"), str):
        config["transformer_layer_cls_to_wrap"] = [wrap]
    if isinstance(reshard := config.get("reshard_after_forward"), str):  # FSDP1's names
        config["reshard_after_forward"] = reshard.lower() in ("full_shard", "true", "hybrid_shard")
    if config.pop("activation_checkpointing", None) in (True, "true"):
        to.left["activation_checkpointing"] = True
    own = {f.name for f in fields(OPTIONS["parallel"]["fsdp"])}
    silent: dict[str, Any] = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
    for key, value in config.items():
        if key in own:
            to.set(f"parallel.{key}", value)
        elif value and str(value).lower() != "false" and value != silent.get(key):
            what = hf.REMARKS.get("fsdp_version" if key == "version" else key, "has no equivalent in parallel=fsdp")
            to.remark(f"fsdp_config.{key}", value, what)


def deepspeed(to: Translation, config: dict[str, Any], path: str | None) -> None:
    """A DeepSpeed configuration: a file as it is, a mapping as fields, or whole where it says more than those; what
    TrainingArguments repeats fills gaps."""
    whole: Any = path or dict(config)
    zero = read_zero(config)
    config.pop("zero_optimization", None)
    to.result.choices["parallel"] = f"zero{zero.fields.pop('zero_stage')}"
    for name in ("bf16", "fp16"):
        if (config.get(name) or {}).get("enabled") is True and not to.left.get(name):
            to.result.choices["precision"] = name
        config.pop(name, None)
    for key, name in TWINS.items():
        if (value := config.pop(key, "auto")) != "auto":
            to.left.setdefault(name, value)
    own = {f.name for f in fields(OPTIONS["parallel"]["deepspeed"])} - {"config"}
    said = {
        key: value
        for key, value in {**zero.fields, **zero.rest, **config}.items()
        if value != "auto" and key not in SILENT
    }
    if path is None and said.keys() <= own:
        to.result.settings |= {f"parallel.{key}": value for key, value in said.items()}
    else:
        to.result.choices["parallel"] = "deepspeed"
        to.set("parallel.config", whole)
