"""TrainingArguments' names and values, of 4.x and 5.x, in our words."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from ...schema import OPTIONS, callbacks
from ...schema import huggingface as hf
from ...schema.optim_args import literal
from ...schema.tree import leaves
from ..experiment import Experiment
from . import sharding
from .translation import MASKED, Translation, options


def translate(values: dict[str, Any]) -> Experiment:
    """Each name carried to its home, or remarked upon; values that say nothing (the Trainer's defaults) may go."""
    to = Translation(values)
    for step in (
        _older_names,
        _resolved,
        _run,
        _values,
        _mappings,
        _precision,
        _optim,
        _scheduler,
        _parallel,
        _reporters,
        _early_stopping,
        _hub,
        _rest,
    ):
        step(to)
    return to.result


def _older_names(to: Translation) -> None:
    for old, new in hf.SAME.items():
        value = to.left.pop(old, None)
        if value is None or value in (MASKED, "<PUSH_TO_HUB_TOKEN>"):
            continue
        if to.left.get(new) is None or old.startswith("per_gpu") or (new == "use_cpu" and value):
            to.left[new] = value
    if to.left.pop("group_by_length", False):
        to.left.setdefault("train_sampling_strategy", "group_by_length")
    if to.left.pop("adafactor", False):
        to.left["optim"] = "adafactor"
    if to.left.pop("include_inputs_for_metrics", False):
        to.left["include_for_metrics"] = [*(to.left.get("include_for_metrics") or []), "inputs"]
    if to.left.pop("tpu_metrics_debug", False):
        to.left["debug"] = "tpu_metrics_debug"
    for name in ("min_num_params", "transformer_layer_cls_to_wrap"):
        if value := to.left.pop(f"fsdp_{name}", None) or to.left.pop(name, None):
            policy = {"auto_wrap_policy": "SIZE_BASED_WRAP"} if name == "min_num_params" else {}
            to.left["fsdp_config"] = {**policy, **to.mapping("fsdp_config"), name: value}
    organization = to.left.pop("push_to_hub_organization", None)
    if organization and to.left.get("hub_model_id"):
        to.left["hub_model_id"] = f"{organization}/{to.left['hub_model_id']}"


def _resolved(to: Translation) -> None:
    """to_dict() writes what __post_init__ made of names that were not given: those say nothing."""
    if not to.dump:
        return
    left, directory = to.left, str(to.left.get("output_dir"))
    derived = {"output_dir": "trainer_output", "run_name": directory, "disable_tqdm": False}
    for name, value in derived.items():
        if left.get(name) == value:
            left.pop(name)
    if str(left.get("logging_dir")).startswith(f"{directory}/runs/"):
        left.pop("logging_dir")
    evaluates = left.get("eval_strategy", "no") != "no"
    if evaluates:
        left.pop("do_eval", None)
    if not (left.get("do_eval") or left.get("do_predict")):
        left.pop("do_train", None)  # scripts that read it set one of the three; the Trainer reads none


def _run(to: Translation) -> None:
    if to.left.get("do_train", True) is False and not (to.left.get("do_eval") or to.left.get("do_predict")):
        to.left.pop("do_train")
        to.remark("do_train", False, "the Trainer never reads it; a run here trains, evaluates or predicts")
    debug = to.take("debug")
    to.set("run.debug", " ".join(debug) if isinstance(debug, list) else debug or "")
    if to.left.get("resume_from_checkpoint") in (True, "True", "true"):
        to.left["resume_from_checkpoint"] = "auto"
    if not to.left.get("resume_from_checkpoint"):
        to.left.pop("resume_from_checkpoint", None)


def _values(to: Translation) -> None:
    """Values whose meaning here is written differently."""
    left = to.left
    if (steps := left.get("max_steps")) is not None and isinstance(steps, int | float):
        if steps == 0:
            to.remark("max_steps", 0, "the Trainer does one step then, and so does train.max_steps=1")
        left["max_steps"] = -1 if steps < 0 else max(1, int(steps))
    for name in ("eval_steps", "neftune_noise_alpha"):
        left[name] = left.get(name) or None
    if isinstance(limit := left.get("save_total_limit"), int) and limit <= 0:
        left["save_total_limit"] = None  # the Trainer keeps all then
    if "max_grad_norm" in left and left["max_grad_norm"] is None:
        left["max_grad_norm"] = 0.0
    if isinstance(seen := left.get("include_num_input_tokens_seen"), bool):
        left["include_num_input_tokens_seen"] = "all" if seen else "no"
    if left.get("log_level") == "passive":
        left.pop("log_level")
    if left.get("log_level") == "detail":
        left["log_level"] = "debug"
        to.remark("log_level", "detail", "is `debug` with file names; carried as logging.log_level=debug")
    for name in ("activation_checkpointing", "torch_compile"):
        if not left.get(name):
            left.pop(name, None)
    for name in ("logging_steps", "eval_steps", "save_steps"):  # to_dict() of 4.x writes 500.0
        if isinstance(number := left.get(name), float) and number >= 1 and number.is_integer():
            left[name] = int(number)
    if left.get("torch_compile") and not left.get("tf32") and not left.get("fp16"):
        what = "the Trainer turns TF32 on with it, where the GPU has it; here only precision.tf32=true does"
        to.result.remarks.append(f"torch_compile=true: {what}")


def _mappings(to: Translation) -> None:
    """Arguments of arguments."""
    left = to.left
    kwargs = to.mapping("activation_checkpointing_kwargs")
    if kwargs and not left.get("activation_checkpointing"):
        to.remark("activation_checkpointing_kwargs", kwargs, "the Trainer ignores them without the switch")
    elif kwargs:
        left["activation_checkpointing_kwargs"] = kwargs
    steps = to.mapping("accelerator_config")
    count = (steps.pop("gradient_accumulation_kwargs", None) or {}).get("num_steps")
    if count:
        left["gradient_accumulation_steps"] = count
    silent = {"split_batches": False, "dispatch_batches": None, "even_batches": True, "non_blocking": False}
    silent |= {"use_seedable_sampler": True, "use_configured_state": False}
    for name, value in steps.items():
        if name not in silent or value != silent[name]:
            to.remark(f"accelerator_config.{name}", value, "has no equivalent here: every rank reads its own batches")


def _precision(to: Translation) -> None:
    chosen = next((name for name in ("bf16", "fp16", "tf32") if to.left.get(name)), "fp32")
    to.result.choices["precision"] = chosen
    if to.left.get(chosen):
        to.left.pop(chosen)


def _optim(to: Translation) -> None:
    name = to.take("optim")
    option = hf.OPTIMIZERS.get(name, name)
    if option not in options("optim"):
        to.remark("optim", name, "is not among optim's options")
        option = "adamw_fused"
    to.result.choices["optim"] = option
    cls, extra = options("optim")[option]
    own = {f.name: f.default for f in fields(cls)} if cls else {}
    if extra.get("layerwise", own.get("layerwise")):
        norm = to.take("max_grad_norm")
        if norm not in (0, hf.DEFAULTS["max_grad_norm"]):
            to.remark("max_grad_norm", norm, f"is without effect with {name}, in the Trainer too")
    for key in (
        "learning_rate",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "optim_target_modules",
    ):
        value = to.take(key)
        if value == hf.DEFAULTS[key]:
            continue  # the option's own default, which is what the Trainer leaves it at
        if key in own:
            to.set(f"optim.{key}", value)
        else:
            to.remark(key, value, f"is not used by {name}, by the Trainer either")
    _optim_args(to, own)


def _optim_args(to: Translation, own: Collection[str]) -> None:
    text = to.take("optim_args")
    if not isinstance(text, str) or not text:
        if text:
            to.set("optim.optim_args", text)
        return
    others = []
    for item in text.split(","):
        key, spaced, value = item.strip().partition(" = ")  # as export writes our fields
        if spaced and key in own:
            to.set(f"optim.{key}", literal(value))
        else:
            others.append(item.strip())
    if others:
        to.set("optim.optim_args", ",".join(others))


def _scheduler(to: Translation) -> None:
    name = to.take("lr_scheduler_type")
    if name not in options("scheduler"):
        to.remark("lr_scheduler_type", name, "is not among scheduler's options; linear instead")
        name = "linear"
    warmup = _warmup(to)
    if name == "constant" and warmup and to.result.choices["optim"] in hf.WARMS_UP:
        name = "constant_with_warmup"
    to.result.choices["scheduler"] = name
    cls = options("scheduler")[name][0]
    own = {f.name for f in fields(cls)} if cls else set()
    arguments = to.mapping("lr_scheduler_kwargs")
    for extra in ("learning_rate_end", "lr_end", "power", "num_cycles", "min_lr", "min_lr_rate"):
        if extra in to.left:  # never fields of TrainingArguments; documented as such all the same
            arguments.setdefault(extra, to.left.pop(extra))
    for key, value in arguments.items():
        key = hf.SCHEDULER_KWARGS.get(key, key)
        if key in own and key != "_target_":
            to.set(f"scheduler.{key}", "one_minus_sqrt" if value == "1-sqrt" else value)
        elif key == "mode":
            better = greater(to.left.get("greater_is_better"), to.left.get("metric_for_best_model"))
            if value != ("max" if better else "min"):
                what = "the direction is the metric's: checkpoint.greater_is_better"
                to.remark(f"lr_scheduler_kwargs.{key}", value, what)
        elif (key, value) != ("verbose", False):
            to.remark(f"lr_scheduler_kwargs.{key}", value, f"scheduler={name} takes none")
    for key, value in warmup.items():
        if key in own:
            to.set(f"scheduler.{key}", value)
        else:
            to.remark(key, value, f"is not used by scheduler={name}, by the Trainer either")


def _warmup(to: Translation) -> dict[str, Any]:
    """Steps from 1 on, a ratio below; 4.x had a field for each, where steps won."""
    steps, ratio = to.take("warmup_steps"), to.left.pop("warmup_ratio", None)
    if isinstance(steps, int | float) and steps >= 1:
        return {"warmup_steps": int(steps)}
    return {"warmup_ratio": steps or ratio} if steps or ratio else {}


def _parallel(to: Translation) -> None:
    file = given if isinstance(given := to.left.get("deepspeed"), str) and not given.startswith("{") else None
    deepspeed, sharded = to.mapping("deepspeed"), to.take("fsdp")
    config = {key.removeprefix("fsdp_"): value for key, value in to.mapping("fsdp_config").items()}
    words = sharded.split() if isinstance(sharded, str) else sharded if isinstance(sharded, list) else []
    words = [str(word).lower() for word in words]
    if deepspeed:
        sharding.deepspeed(to, deepspeed, file)
    elif "no_shard" in words or not sharded:
        to.result.choices["parallel"] = "ddp"
    else:
        to.result.choices["parallel"] = "fsdp"
        sharding.fsdp(to, words, config)
        config = {}
    silent: tuple[Any, ...] = (None, False, 0, [], {}, "")
    if leftover := {key: value for key, value in config.items() if value not in silent}:
        to.remark("fsdp_config", leftover, "the Trainer ignores it without fsdp")
    value = to.take("parallelism_config")
    if isinstance(value, dict):
        to.result.choices["parallel"] = "mesh"
        sizes = {f.name for f in fields(OPTIONS["parallel"]["mesh"])}
        for name, size in value.items():
            if name in sizes:
                to.set(f"parallel.{name}", size)
            elif size not in (None, 1) and not name.endswith("_backend"):  # which of two ways to the same numbers
                what = "has no equivalent; parallel.cp_size shares a sequence, parallel.tp_size a layer"
                to.remark(f"parallelism_config.{name}", size, what)
    elif value:
        to.remark("parallelism_config", value, hf.REMARKS["parallelism_config"])
    cls = options("parallel")[str(to.result.choices["parallel"])][0]
    own = {f.name for f in fields(cls)} if cls else set()
    for name in [name for name in hf.DEFAULTS if name.startswith("ddp_")]:
        value = to.take(name)
        if value is None or (name not in own and value == hf.DEFAULTS[name]):
            continue
        if name in own:
            to.enter(name, f"parallel.{name}", value)
        else:
            to.remark(name, value, "belongs to parallel=ddp")


def _reporters(to: Translation) -> None:
    given = to.take("report_to")
    names = [given] if isinstance(given, str) else list(given or [])
    known = {name for name in options("logging") if name not in ("none", "console", "csv")}
    if names == ["all"]:
        from importlib.util import find_spec

        names = [name for name in sorted(known) if find_spec(name) is not None]
        to.remark("report_to", "all", f"means what is installed: {', '.join(names) or 'nothing'} on this machine")
    chosen = ["console"]
    for name in names:
        if name in known:
            chosen.append(name)
        elif name != "none":
            to.remark("report_to", name, "is not among logging's options")
    to.result.choices["logging"] = chosen
    for name, key in (("logging_dir", "tensorboard.log_dir"), *((n, f"trackio.{n}") for n in _TRACKIO)):
        value = to.left.pop(name, None)
        if value in (None, False) or (name == "trackio_space_id" and value == "trackio" and to.dump):
            continue
        if key.split(".")[0] in chosen:
            to.set(f"logging.reporters.{key}", value)
        else:
            to.remark(name, value, f"is read by {key.split('.')[0]} alone, which report_to does not name")


def _early_stopping(to: Translation) -> None:
    for f in fields(callbacks.EarlyStopping):
        if (value := to.left.pop(f.name, None)) is not None:
            to.result.choices["callbacks"] = ["early_stopping"]
            to.set(f"callbacks.early_stopping.{f.name}", value)


def _hub(to: Translation) -> None:
    if (token := to.left.pop("hub_token", None)) and token != MASKED:
        to.result.remarks.append("hub_token: a secret belongs in no file; set HF_TOKEN or run `hf auth login`")
    elif token and to.left.get("push_to_hub"):
        to.result.remarks.append("hub_token: is masked in the file; set HF_TOKEN or run `hf auth login`")


def _rest(to: Translation) -> None:
    """Every other name goes to its home as it is, or is remarked upon."""
    for name, value in to.left.items():
        key = hf.HOMES.get(name)
        if key is not None and key in leaves():
            if value is not None or hf.DEFAULTS.get(name, ...) is not None:
                to.enter(name, key, value)
        elif value not in hf.OLD_DEFAULTS.get(name, ()) and value is not None:
            to.remark(name, value, hf.REMARKS.get(name, "is not a name of TrainingArguments"))


def greater(given: bool | None, metric: str | None) -> bool:
    """Which direction of the metric is better."""
    return not (metric or "loss").endswith("loss") if given is None else given


_TRACKIO = ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
