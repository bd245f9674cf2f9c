"""TrainingArguments' names and values, of 4.x and 5.x, in our words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from ...config.files import read
from ...config.sources import conf_directory
from ...errors import show
from ...schema import OPTIONS, callbacks
from ...schema import huggingface as hf
from ...schema.optim_args import literal
from ...schema.tree import choices_of, leaves
from . import sharding

MASKED = "<HUB_TOKEN>"
"""What to_dict() writes in place of any token, None included: a sign that every value is there, defaults too."""


@dataclass(slots=True)
class Experiment:
    """What an experiment file will say, and what it cannot."""

    choices: dict[str, str | list[str]] = field(default_factory=dict)
    """Group -> option; groups that stay at their default may be missing."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Full key -> value."""
    remarks: list[str] = field(default_factory=list)


@cache
def options(group: str) -> dict[str, tuple[type | None, dict[str, Any]]]:
    """The options that come with the package: name -> (schema class, what the file sets)."""
    found = {}
    for path in sorted((conf_directory() / group).glob("*.yaml")):
        content = dict(read(path).content)
        schema = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
        places = {key: value for entry in schema for key, value in entry.items() if key.startswith("/schema/")}
        key, name = next(iter(places.items()), ("", None))
        if key.endswith(f"@{group}"):  # a file that sets other sections too
            content = content.get(group, {})
        found[path.stem] = (OPTIONS.get("reporters" if group == "logging" else group, {}).get(str(name)), content)
    return found


def translate(values: dict[str, Any]) -> Experiment:
    """Each name carried to its home, or remarked upon; values that say nothing (the Trainer's defaults) may go."""
    return Translation(values).run()


class Translation:
    """One set of arguments on its way."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.left = dict(values)
        """Names that nothing has been said about yet."""
        self.dump = self.left.get("hub_token") == MASKED or self.left.get("push_to_hub_token") == "<PUSH_TO_HUB_TOKEN>"
        self.result = Experiment()

    def run(self) -> Experiment:
        steps: tuple[Callable[[], None], ...] = (
            self._older_names,
            self._resolved,
            self._run,
            self._values,
            self._precision,
            self._optim,
            self._scheduler,
            self._parallel,
            self._reporters,
            self._early_stopping,
            self._hub,
            self._rest,
        )
        for step in steps:
            step()
        return self.result

    def take(self, name: str) -> Any:
        """The value of a name, which is thereby dealt with; the Trainer's default where it is not given."""
        return self.left.pop(name, hf.DEFAULTS.get(name))

    def set(self, key: str, value: Any) -> None:
        self.result.settings[key] = value

    def remark(self, name: str, value: Any, what: str) -> None:
        self.result.remarks.append(f"{name}={show(value)}: {what}")

    def _mapping(self, name: str) -> dict[str, Any]:
        """A field that may be a mapping, JSON text or a JSON file's path."""
        value = self.take(name)
        if isinstance(value, str) and value:
            try:
                value = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text())
            except (OSError, ValueError) as error:
                self.remark(name, value, f"is neither JSON nor a JSON file that can be read ({error})")
                return {}
        if value and not isinstance(value, dict):
            self.remark(name, value, "is no mapping")
            return {}
        return dict(value or {})

    def _older_names(self) -> None:
        for old, new in hf.SAME.items():
            value = self.left.pop(old, None)
            if value is None or value in (MASKED, "<PUSH_TO_HUB_TOKEN>"):
                continue
            if self.left.get(new) is None or old.startswith("per_gpu") or (new == "use_cpu" and value):
                self.left[new] = value
        if self.left.pop("group_by_length", False):
            self.left.setdefault("train_sampling_strategy", "group_by_length")
        if self.left.pop("adafactor", False):
            self.left["optim"] = "adafactor"
        if self.left.pop("include_inputs_for_metrics", False):
            self.left["include_for_metrics"] = [*(self.left.get("include_for_metrics") or []), "inputs"]
        if self.left.pop("tpu_metrics_debug", False):
            self.left["debug"] = "tpu_metrics_debug"
        for name in ("min_num_params", "transformer_layer_cls_to_wrap"):
            if value := self.left.pop(f"fsdp_{name}", None) or self.left.pop(name, None):
                policy = {"auto_wrap_policy": "SIZE_BASED_WRAP"} if name == "min_num_params" else {}
                self.left["fsdp_config"] = {**policy, **self._mapping("fsdp_config"), name: value}
        organization = self.left.pop("push_to_hub_organization", None)
        if organization and self.left.get("hub_model_id"):
            self.left["hub_model_id"] = f"{organization}/{self.left['hub_model_id']}"

    def _resolved(self) -> None:
        """to_dict() writes what __post_init__ made of names that were not given: those say nothing."""
        if not self.dump:
            return
        left, directory = self.left, str(self.left.get("output_dir"))
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

    def _run(self) -> None:
        if self.left.get("do_train", True) is False and not (self.left.get("do_eval") or self.left.get("do_predict")):
            self.left.pop("do_train")
            self.remark("do_train", False, "the Trainer never reads it; a run here trains, evaluates or predicts")
        debug = self.take("debug")
        self.set("run.debug", " ".join(debug) if isinstance(debug, list) else debug or "")
        if self.left.get("resume_from_checkpoint") in (True, "True", "true"):
            self.left["resume_from_checkpoint"] = "auto"
        if not self.left.get("resume_from_checkpoint"):
            self.left.pop("resume_from_checkpoint", None)

    def _values(self) -> None:
        """Values whose meaning here is written differently."""
        left = self.left
        if (steps := left.get("max_steps")) is not None and isinstance(steps, int | float):
            if steps == 0:
                self.remark("max_steps", 0, "the Trainer does one step then, and so does train.max_steps=1")
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
            self.remark("log_level", "detail", "is `debug` with file names; carried as logging.log_level=debug")
        for name in ("activation_checkpointing", "torch_compile"):
            if not left.get(name):
                left.pop(name, None)
        for name in ("logging_steps", "eval_steps", "save_steps"):  # to_dict() of 4.x writes 500.0
            if isinstance(number := left.get(name), float) and number >= 1 and number.is_integer():
                left[name] = int(number)
        if left.get("torch_compile") and not left.get("tf32") and not left.get("fp16"):
            what = "the Trainer turns TF32 on with it, where the GPU has it; here only precision.tf32=true does"
            self.result.remarks.append(f"torch_compile=true: {what}")
        kwargs = self._mapping("activation_checkpointing_kwargs")
        if kwargs and not left.get("activation_checkpointing"):
            self.remark("activation_checkpointing_kwargs", kwargs, "the Trainer ignores them without the switch")
        elif kwargs:
            left["activation_checkpointing_kwargs"] = kwargs
        steps = self._mapping("accelerator_config")
        count = (steps.pop("gradient_accumulation_kwargs", None) or {}).get("num_steps")
        if count:
            left["gradient_accumulation_steps"] = count
        silent = {"split_batches": False, "dispatch_batches": None, "even_batches": True, "non_blocking": False}
        silent |= {"use_seedable_sampler": True, "use_configured_state": False}
        for name, value in steps.items():
            if name not in silent or value != silent[name]:
                self.remark(
                    f"accelerator_config.{name}", value, "has no equivalent here: every rank reads its own batches"
                )

    def _precision(self) -> None:
        chosen = next((name for name in ("bf16", "fp16", "tf32") if self.left.get(name)), "fp32")
        self.result.choices["precision"] = chosen
        if self.left.get(chosen):
            self.left.pop(chosen)

    def _optim(self) -> None:
        name = self.take("optim")
        option = hf.OPTIMIZERS.get(name, name)
        if option not in options("optim"):
            self.remark("optim", name, "is not among optim's options")
            option = "adamw_fused"
        self.result.choices["optim"] = option
        cls, extra = options("optim")[option]
        own = {f.name: f.default for f in fields(cls)} if cls else {}
        if extra.get("layerwise", own.get("layerwise")):
            norm = self.take("max_grad_norm")
            if norm not in (0, hf.DEFAULTS["max_grad_norm"]):
                self.remark("max_grad_norm", norm, f"is without effect with {name}, in the Trainer too")
        for key in (
            "learning_rate",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "optim_target_modules",
        ):
            value = self.take(key)
            if value == hf.DEFAULTS[key]:
                continue  # the option's own default, which is what the Trainer leaves it at
            if key in own:
                self.set(f"optim.{key}", value)
            else:
                self.remark(key, value, f"is not used by {name}, by the Trainer either")
        text = self.take("optim_args")
        if not isinstance(text, str) or not text:
            if text:
                self.set("optim.optim_args", text)
            return
        others = []
        for item in text.split(","):
            key, spaced, value = item.strip().partition(" = ")  # as export writes our fields
            if spaced and key in own:
                self.set(f"optim.{key}", literal(value))
            else:
                others.append(item.strip())
        if others:
            self.set("optim.optim_args", ",".join(others))

    def _scheduler(self) -> None:
        name = self.take("lr_scheduler_type")
        if name not in options("scheduler"):
            self.remark("lr_scheduler_type", name, "is not among scheduler's options; linear instead")
            name = "linear"
        warmup = self._warmup()
        if name == "constant" and warmup and self.result.choices["optim"] in hf.WARMS_UP:
            name = "constant_with_warmup"
        self.result.choices["scheduler"] = name
        cls = options("scheduler")[name][0]
        own = {f.name for f in fields(cls)} if cls else set()
        arguments = self._mapping("lr_scheduler_kwargs")
        for extra in ("learning_rate_end", "lr_end", "power", "num_cycles", "min_lr", "min_lr_rate"):
            if extra in self.left:  # never fields of TrainingArguments; documented as such all the same
                arguments.setdefault(extra, self.left.pop(extra))
        for key, value in arguments.items():
            key = hf.SCHEDULER_KWARGS.get(key, key)
            if key in own and key != "_target_":
                self.set(f"scheduler.{key}", "one_minus_sqrt" if value == "1-sqrt" else value)
            elif key == "mode":
                better = greater(self.left.get("greater_is_better"), self.left.get("metric_for_best_model"))
                if value != ("max" if better else "min"):
                    what = "the direction is the metric's: checkpoint.greater_is_better"
                    self.remark(f"lr_scheduler_kwargs.{key}", value, what)
            elif (key, value) != ("verbose", False):
                self.remark(f"lr_scheduler_kwargs.{key}", value, f"scheduler={name} takes none")
        for key, value in warmup.items():
            if key in own:
                self.set(f"scheduler.{key}", value)
            else:
                self.remark(key, value, f"is not used by scheduler={name}, by the Trainer either")

    def _warmup(self) -> dict[str, Any]:
        """Steps from 1 on, a ratio below; 4.x had a field for each, where steps won."""
        steps, ratio = self.take("warmup_steps"), self.left.pop("warmup_ratio", None)
        if isinstance(steps, int | float) and steps >= 1:
            return {"warmup_steps": int(steps)}
        return {"warmup_ratio": steps or ratio} if steps or ratio else {}

    def _parallel(self) -> None:
        file = given if isinstance(given := self.left.get("deepspeed"), str) and not given.startswith("{") else None
        deepspeed, sharded = self._mapping("deepspeed"), self.take("fsdp")
        config = {key.removeprefix("fsdp_"): value for key, value in self._mapping("fsdp_config").items()}
        words = sharded.split() if isinstance(sharded, str) else sharded if isinstance(sharded, list) else []
        words = [str(word).lower() for word in words]
        if deepspeed:
            sharding.deepspeed(self, deepspeed, file)
        elif "no_shard" in words or not sharded:
            self.result.choices["parallel"] = "ddp"
        else:
            self.result.choices["parallel"] = "fsdp"
            sharding.fsdp(self, words, config)
            config = {}
        silent: tuple[Any, ...] = (None, False, 0, [], {}, "")
        if leftover := {key: value for key, value in config.items() if value not in silent}:
            self.remark("fsdp_config", leftover, "the Trainer ignores it without fsdp")
        value = self.take("parallelism_config")
        if isinstance(value, dict):
            self.result.choices["parallel"] = "mesh"
            sizes = {f.name for f in fields(OPTIONS["parallel"]["mesh"])}
            for name, size in value.items():
                if name in sizes:
                    self.set(f"parallel.{name}", size)
                elif size not in (None, 1) and not name.endswith("_backend"):  # which of two ways to the same numbers
                    what = "has no equivalent; parallel.cp_size shares a sequence, parallel.tp_size a layer"
                    self.remark(f"parallelism_config.{name}", size, what)
        elif value:
            self.remark("parallelism_config", value, hf.REMARKS["parallelism_config"])
        cls = options("parallel")[str(self.result.choices["parallel"])][0]
        own = {f.name for f in fields(cls)} if cls else set()
        for name in [name for name in hf.DEFAULTS if name.startswith("ddp_")]:
            value = self.take(name)
            if value is None or (name not in own and value == hf.DEFAULTS[name]):
                continue
            if name in own:
                self._enter(name, f"parallel.{name}", value)
            else:
                self.remark(name, value, "belongs to parallel=ddp")

    def _reporters(self) -> None:
        given = self.take("report_to")
        names = [given] if isinstance(given, str) else list(given or [])
        known = {name for name in options("logging") if name not in ("none", "console", "csv")}
        if names == ["all"]:
            from importlib.util import find_spec

            names = [name for name in sorted(known) if find_spec(name) is not None]
            self.remark("report_to", "all", f"means what is installed: {', '.join(names) or 'nothing'} on this machine")
        chosen = ["console"]
        for name in names:
            if name in known:
                chosen.append(name)
            elif name != "none":
                self.remark("report_to", name, "is not among logging's options")
        self.result.choices["logging"] = chosen
        for name, key in (("logging_dir", "tensorboard.log_dir"), *((n, f"trackio.{n}") for n in _TRACKIO)):
            value = self.left.pop(name, None)
            if value in (None, False) or (name == "trackio_space_id" and value == "trackio" and self.dump):
                continue
            if key.split(".")[0] in chosen:
                self.set(f"logging.reporters.{key}", value)
            else:
                self.remark(name, value, f"is read by {key.split('.')[0]} alone, which report_to does not name")

    def _early_stopping(self) -> None:
        for f in fields(callbacks.EarlyStopping):
            if (value := self.left.pop(f.name, None)) is not None:
                self.result.choices["callbacks"] = ["early_stopping"]
                self.set(f"callbacks.early_stopping.{f.name}", value)

    def _hub(self) -> None:
        if (token := self.left.pop("hub_token", None)) and token != MASKED:
            self.result.remarks.append("hub_token: a secret belongs in no file; set HF_TOKEN or run `hf auth login`")
        elif token and self.left.get("push_to_hub"):
            self.result.remarks.append("hub_token: is masked in the file; set HF_TOKEN or run `hf auth login`")

    def _rest(self) -> None:
        """Every other name goes to its home as it is, or is remarked upon."""
        for name, value in self.left.items():
            key = hf.HOMES.get(name)
            if key is not None and key in leaves():
                if value is not None or hf.DEFAULTS.get(name, ...) is not None:
                    self._enter(name, key, value)
            elif value not in hf.OLD_DEFAULTS.get(name, ()) and value is not None:
                self.remark(name, value, hf.REMARKS.get(name, "is no name of TrainingArguments"))

    def _enter(self, name: str, key: str, value: Any) -> None:
        """Set a key, unless it takes one of several words and this is none of them."""
        words = choices_of(key)
        wrong = [item for item in (value if isinstance(value, list) else [value]) if words and item not in words]
        if value is not None and wrong:
            self.remark(name, value, f"is not offered; {key} takes {', '.join(words)}")
        else:
            self.set(key, value)


def greater(given: bool | None, metric: str | None) -> bool:
    """Which direction of the metric is better."""
    return not (metric or "loss").endswith("loss") if given is None else given


_TRACKIO = ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
