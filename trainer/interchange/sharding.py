"""FSDP's and DeepSpeed's own configurations, as TrainingArguments holds them, in our words."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..schema import OPTIONS
from ..schema import huggingface as hf

if TYPE_CHECKING:
    from .incoming import Translation


def fsdp(to: Translation, words: list[str], config: dict[str, Any]) -> None:
    """The words of `fsdp` and the keys of `fsdp_config` as fields of parallel=fsdp."""
    if "shard_grad_op" in words:
        config.setdefault("reshard_after_forward", False)
    if "offload" in words:
        config.setdefault("cpu_offload", True)
    for word in words:
        if word.startswith("hybrid"):
            to.remark("fsdp", word, "is plain sharding here: parallel=fsdp")
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


def deepspeed(to: Translation, config: dict[str, Any]) -> None:
    """A DeepSpeed configuration as fields of parallel=zero1|zero2|zero3; what TrainingArguments repeats fills gaps."""
    zero = dict(config.pop("zero_optimization", None) or {})
    stage = zero.pop("stage", 0)
    to.result.choices["parallel"] = f"zero{stage}" if stage in (1, 2, 3) else "zero1"
    own = {f.name for f in fields(OPTIONS["parallel"]["deepspeed"])}
    if stage not in (1, 2, 3):
        to.set("parallel.zero_stage", stage)
    twins = {"train_micro_batch_size_per_gpu": "per_device_train_batch_size", "gradient_clipping": "max_grad_norm"}
    twins["gradient_accumulation_steps"] = "gradient_accumulation_steps"
    for key, value in [*zero.items(), *config.items()]:
        where = "zero_optimization." if key in zero else ""
        if value == "auto" or key in ("train_batch_size", "steps_per_print", "wall_clock_breakdown"):
            continue
        if key in twins:
            to.left.setdefault(twins[key], value)
        elif key in ("bf16", "fp16", "bfloat16") and isinstance(value, dict):
            if value.get("enabled") is True and not to.left.get(key):
                to.result.choices["precision"] = key.replace("bfloat16", "bf16")
        elif key in own:
            to.set(f"parallel.{key}", value)
        else:
            to.remark(f"deepspeed.{where}{key}", value, "has no field in parallel=zero1|zero2|zero3")
