"""A DeepSpeed JSON as an experiment of ours, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.inline import read_json
from ..errors import ConfigError, Problem
from ..schema import Config, optim
from ..schema.deepspeed import AUTO, ELSEWHERE, OPTIMIZERS, SCHEDULERS, passed_on, read_zero, without_autos, write_zero
from ..schema.parallel import DeepSpeed
from .experiment import Experiment

USUAL: dict[str, Any] = {
    "contiguous_gradients": True, "reduce_scatter": True, "allgather_partitions": True, "allgather_bucket_size": 5e8,
    "sub_group_size": 1e9, "stage3_max_live_parameters": 1e9, "stage3_max_reuse_distance": 1e9,
    "stage3_prefetch_bucket_size": 5e7, "round_robin_gradients": False, "ignore_unused_parameters": True,
}  # fmt: skip
"""DeepSpeed's own defaults, which need no mention."""
ZERO = "zero_optimization"
IRRELEVANT = (
    "steps_per_print", "wall_clock_breakdown", "stage3_gather_16bit_weights_on_model_save", "dump_state",
    "stage3_gather_fp16_weights_on_model_save", "zero_force_ds_cpu_optimizer", "cpu_offload_params", "pin_memory",
)  # fmt: skip
"""Reports, which are this trainer's business, and whole weights, which it always writes."""
OPTION = {optim.AdamW: "adamw", optim.Adam: "adam", optim.SGD: "sgd", optim.Adagrad: "adagrad"}


def incoming(path: Path) -> Experiment:
    """What the file says, in our words. Raises ConfigError where it cannot be read."""
    try:
        given = read_json(path)
    except ValueError as error:
        raise ConfigError([Problem(key=str(path), what=f"is not a DeepSpeed JSON: {error}")]) from None
    result = Experiment()
    for key, ours in (
        ("train_micro_batch_size_per_gpu", "train.per_device_train_batch_size"),
        ("gradient_accumulation_steps", "train.gradient_accumulation_steps"),
        ("gradient_clipping", "train.max_grad_norm"),
    ):
        if given.get(key, AUTO) not in (AUTO, None):
            result.settings[ours] = given[key]
    _ranks(given, result)
    for section in ("fp16", "bf16", "bfloat16"):
        if isinstance(given.get(section), dict) and given[section].get("enabled") is True:
            result.choices["precision"] = section[:4]
            if section == "fp16":
                result.remarks.append(
                    "fp16: the loss scale is torch's GradScaler's (from 65536, doubled every 2000 steps)"
                )
    _optimizer(given.get("optimizer"), result)
    _scheduler(given.get("scheduler"), result)
    for section in ELSEWHERE:
        if given.get(section):
            result.remarks.append(f"{section}: this trainer's loop does not do that")
    _zero(given, path, result)
    return result


def _ranks(given: dict[str, Any], result: Experiment) -> None:
    whole, size, count = (
        given.get(k) for k in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    )
    if isinstance(whole, int) and isinstance(size, int) and isinstance(count, int) and whole % (size * count) == 0:
        result.settings["launch.nproc_per_node"] = whole // (size * count)
    elif isinstance(whole, int):
        result.remarks.append(f"train_batch_size={whole}: is batch size x accumulation x ranks here")


def _optimizer(section: Any, result: Experiment) -> None:
    if not isinstance(section, dict):
        return
    params, kind = dict(section.get("params") or {}), str(section.get("type", ""))
    found = OPTIMIZERS.get(kind.lower())
    if kind.lower() == "adam" and params.pop("adam_w_mode", True) is False:
        found = optim.Adam
    if found is None:
        result.remarks.append(f"optimizer.type={kind}: is not among optim's options")
        return
    result.choices["optim"] = OPTION[found]
    betas = params.pop("betas", AUTO)
    if isinstance(betas, list) and AUTO not in betas:
        params |= {"adam_beta1": betas[0], "adam_beta2": betas[1]}
    names = {"lr": "learning_rate", "eps": "adam_epsilon"} if found is not optim.Adagrad else {"lr": "learning_rate"}
    for key, value in params.items():
        if value != AUTO and key not in ("torch_adam", "adam_w_mode"):
            result.settings[f"optim.{names.get(key, key)}"] = value


def _scheduler(section: Any, result: Experiment) -> None:
    if not isinstance(section, dict):
        return
    params, kind = dict(section.get("params") or {}), str(section.get("type"))
    if kind not in SCHEDULERS:
        result.remarks.append(f"scheduler.type={kind}: is not among scheduler's options")
        return
    result.choices["scheduler"] = SCHEDULERS[kind][1]
    if params.get("warmup_num_steps", AUTO) != AUTO:
        result.settings["scheduler.warmup_steps"] = params["warmup_num_steps"]
        if params.get("warmup_type", "log") == "log" and kind != "WarmupCosineLR":
            result.remarks.append(f"scheduler {kind}: warms up logarithmically; scheduler.warmup_steps does linearly")
    if params.get("total_num_steps", AUTO) != AUTO:
        result.settings["train.max_steps"] = params["total_num_steps"]
    if params.get("warmup_max_lr", AUTO) != AUTO:
        result.settings.setdefault("optim.learning_rate", params["warmup_max_lr"])
    if params.get("warmup_min_lr", AUTO) not in (AUTO, 0):
        result.remarks.append(f"scheduler.params.warmup_min_lr={params['warmup_min_lr']}: warm-up starts from 0")


def _zero(given: dict[str, Any], path: Path, result: Experiment) -> None:
    """One of our options where it says the same, else the file itself."""
    zero = read_zero(without_autos(given))
    others = {key: value for key, value in passed_on(given, None).items() if key not in (*IRRELEVANT, ZERO)}
    others |= {f"{ZERO}.{key}": value for key, value in zero.rest.items() if not _is_usual(key, value)}
    settings = {
        f"parallel.{key}": value for key, value in zero.fields.items() if key != "zero_stage" and value != "none"
    }
    if isinstance(size := settings.get(bucket := "parallel.reduce_bucket_size"), int | float):
        settings[bucket] = int(size)
        others |= {bucket: size} if size < 1 else {}
    if others:
        result.choices["parallel"] = "deepspeed"
        result.settings["parallel.config"] = str(path.resolve())
        return
    result.choices["parallel"] = f"zero{zero.fields['zero_stage']}"
    result.settings |= settings


def _is_usual(key: str, value: Any) -> bool:
    """Whether a key of zero_optimization need not be carried over."""
    return key.split(".")[-1] in IRRELEVANT or USUAL.get(key, ...) == value


def outgoing(config: Config) -> tuple[dict[str, Any], list[str]]:
    """The JSON that says what this config says, without 'auto', and what has no place in it. Raises ConfigError for
    another engine."""
    node, train, remarks = config.parallel, config.train, []
    if not isinstance(node, DeepSpeed):
        raise ConfigError([Problem(key="parallel", what="is not DeepSpeed", fix="parallel=zero2")])
    given = node.config or {}
    out: dict[str, Any] = passed_on(given, None)
    if node.config is None:
        out[ZERO] = write_zero(node, pin_memory=True)
    out["train_micro_batch_size_per_gpu"] = train.per_device_train_batch_size
    out["gradient_accumulation_steps"] = train.gradient_accumulation_steps
    out["gradient_clipping"] = train.max_grad_norm
    if (ranks := config.launch.nproc_per_node) is not None:
        size = train.per_device_train_batch_size * train.gradient_accumulation_steps
        out["train_batch_size"] = size * ranks * config.launch.nnodes
    out["bf16"], out["fp16"] = {"enabled": config.precision.bf16}, {"enabled": config.precision.fp16}
    out |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    if (section := _exported_optimizer(config.optim)) is not None:
        out["optimizer"] = section
    else:
        remarks.append("optim: DeepSpeed has no such optimizer; hand it yours")
    if (section := _exported_scheduler(config)) is not None:
        out["scheduler"] = section
    else:
        remarks.append(
            "scheduler: DeepSpeed has no such schedule, or its length is not in train.max_steps; hand it yours"
        )
    return out, remarks


def _exported_optimizer(node: Any) -> dict[str, Any] | None:
    kinds = {optim.AdamW: "AdamW", optim.Adam: "Adam", optim.SGD: "SGD", optim.Adagrad: "Adagrad"}
    if type(node) not in kinds:
        return None
    params: dict[str, Any] = {"lr": node.learning_rate, "weight_decay": node.weight_decay}
    if isinstance(node, optim.AdamLike):
        params |= {"betas": [node.adam_beta1, node.adam_beta2], "eps": node.adam_epsilon}
    if type(node) is optim.Adam:
        params["adam_w_mode"] = False
    if type(node) is optim.SGD:
        params["momentum"] = node.momentum
    return {"type": kinds[type(node)], "params": params}


def _exported_scheduler(config: Config) -> dict[str, Any] | None:
    node, steps = config.scheduler, config.train.max_steps
    kind = next((name for name, (cls, _) in SCHEDULERS.items() if type(node) is cls), None)
    rate = getattr(config.optim, "learning_rate", None)
    if kind is None or rate is None or node.warmup_ratio or (kind != "WarmupLR" and steps < 1):
        return None
    if kind == "WarmupCosineLR":
        if node.num_cycles != 0.5:
            return None
        ratios = {"warmup_min_ratio": 0.0, "cos_min_ratio": 0.0, "warmup_type": "linear"}
        return {"type": kind, "params": {"warmup_num_steps": node.warmup_steps, "total_num_steps": steps, **ratios}}
    params = {
        "warmup_min_lr": 0.0,
        "warmup_max_lr": rate,
        "warmup_num_steps": node.warmup_steps,
        "warmup_type": "linear",
    }
    return {"type": kind, "params": params | ({"total_num_steps": steps} if kind == "WarmupDecayLR" else {})}
