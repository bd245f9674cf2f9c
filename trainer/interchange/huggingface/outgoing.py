"""A composed config in TrainingArguments' names, those of 5.23."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ...config import nodes
from ...errors import show
from ...schema import Config, parallel, scheduler
from ...schema import huggingface as hf
from ...schema.deepspeed import write_zero
from ...schema.optim import Optim
from ...schema.optim_args import parse
from ...schema.tree import sections
from . import sharding
from .incoming import greater
from .translation import options

OUTSIDE = "model, task and datasets: are arguments of the Trainer itself"
OPTIMIZER = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim_target_modules")


class Outgoing:
    """``values``: what differs from TrainingArguments' defaults; ``remarks``: what has no place there."""

    def __init__(self, config: Config, cfg: DictConfig) -> None:
        self.config, self.cfg = config, cfg
        self.values: dict[str, Any] = {}
        self.remarks: list[str] = []
        self._sections()
        self._optim()
        self._scheduler()
        self._parallel()
        self._reporters()
        self._callbacks()
        self.remarks.append(OUTSIDE)

    def all(self) -> dict[str, Any]:
        """Every field of TrainingArguments."""
        return {name: self.values.get(name, default) for name, default in hf.DEFAULTS.items()}

    def put(self, name: str, value: Any, ours: Any) -> None:
        """Enter a value unless it says nothing: ``ours`` is our default, which a missing name is imported as."""
        value, ours = plain(value), plain(ours)
        default = hf.EQUIVALENT.get(name, hf.DEFAULTS[name])
        if value != default or (value != ours and value is not None):
            self.values[name] = value

    def remark(self, key: str, value: Any, what: str = "has no counterpart in TrainingArguments") -> None:
        self.remarks.append(f"{key}={show(plain(value))}: {hf.COUNTERPARTS.get(key, what)}")

    def _sections(self) -> None:
        for section, cls in sections().items():
            for name, value, ours in self._leaves(section, getattr(self.config, section), cls):
                key = f"{section}.{name}"
                if name in hf.DEFAULTS and hf.HOMES.get(name) == key:
                    self._field(name, key, value, ours)
                elif value != ours:
                    self.remark(key, value)

    def _leaves(self, key: str, node: Any, cls: type) -> Iterator[tuple[str, Any, Any]]:
        """(name, value, default) of a typed node's fields; both are the interpolation where that is the default."""
        for f in fields(cls):
            ours = (
                f.default if f.default is not MISSING else f.default_factory() if callable(f.default_factory) else None
            )
            if f.name in ("_target_", "reporters") or f.default == "???" or f"{key}.{f.name}" == "data.eval_dataset":
                continue
            written = nodes.child(OmegaConf.select(self.cfg, key), f.name)
            if isinstance(ours, str) and "${" in ours and written is not None and nodes.raw(written) == ours:
                yield f.name, ours, ours
            else:
                yield f.name, getattr(node, f.name), ours

    def _field(self, name: str, key: str, value: Any, ours: Any) -> None:
        if name == "hub_token":
            if value is not None:
                self.remarks.append("hub.hub_token: a secret belongs in no file; set HF_TOKEN or run `hf auth login`")
        elif name == "output_dir" and value == ours:
            return
        elif name == "resume_from_checkpoint" and value == "auto":
            self.values[name] = True
        elif name == "torch_compile":
            if value is not None:
                self.values[name] = value
        else:
            self.put(name, value, ours)

    def _optim(self) -> None:
        node = self.config.optim
        if not isinstance(node, Optim):
            target = node.get("_target_")
            for name in ("learning_rate", "weight_decay"):
                if name in node:
                    self.put(name, node[name], hf.DEFAULTS[name])
            self.remark("optim._target_", target, "is an argument of the Trainer: Trainer(optimizer_cls_and_kwargs=)")
            return
        option, extra = self._option(node)
        word = next((w for w in ("adamw_torch", "adamw_torch_fused") if hf.OPTIMIZERS[w] == option), option)
        if word is None or word not in hf.OPTIMIZER_NAMES:
            self.remark("optim", type(node).__name__, "is not an optimizer of TrainingArguments")
        else:
            self.put("optim", word, "adamw_torch_fused")
        readable = next((names for part, names in hf.OPTIM_ARGS.items() if word and _matches(part, word)), "").split()
        arguments = []
        for name, value, ours in self._leaves("optim", node, type(node)):
            ours = extra.get(name, ours)
            if name in OPTIMIZER:
                if plain(value) == ours and (ours == hf.DEFAULTS[name] or name != "optim_target_modules"):
                    continue
                if value == hf.DEFAULTS[name]:
                    self.remark(f"optim.{name}", value, f"is the Trainer's default, which {word} does not use")
                else:
                    self.values[name] = plain(value)
            elif value == ours:
                continue
            elif name == "optim_args":
                given = value if isinstance(value, str) else ",".join(f"{k}={show(v)}" for k, v in parse(value).items())
                arguments.append(given)
            elif name in readable and value is not None:
                arguments.append(f"{name} = {show(plain(value))}")  # spaces, which the Trainer drops, say: a field
            else:
                self.remark(f"optim.{name}", value, f"the Trainer reads no {name} for {word}")
        if arguments:
            self.values["optim_args"] = ",".join(arguments)

    def _option(self, node: Optim) -> tuple[str | None, dict[str, Any]]:
        """The option whose file says most of what ``node`` is."""
        found = [
            (name, extra)
            for name, (cls, extra) in options("optim").items()
            if cls is type(node) and all(plain(getattr(node, key, None)) == value for key, value in extra.items())
        ]
        known = [entry for entry in found if entry[0] in hf.OPTIMIZER_NAMES or entry[0] in hf.OPTIMIZERS.values()]
        return max(known or found, key=lambda entry: len(entry[1]), default=(None, {}))

    def _scheduler(self) -> None:
        node = self.config.scheduler
        name = next((n for n, (cls, _) in options("scheduler").items() if cls is type(node)), None)
        if name is None or not is_dataclass(node):
            self.remark(
                "scheduler._target_", node.get("_target_"), "is an argument of the Trainer: Trainer(optimizers=)"
            )
            return
        warmup = getattr(node, "warmup_steps", 0) or getattr(node, "warmup_ratio", 0)
        if warmup:
            self.values["warmup_steps"] = warmup
        if name == "constant_with_warmup" and warmup and self._option(self.config.optim)[0] in hf.WARMS_UP:
            name = "constant"
        self.put("lr_scheduler_type", name, "linear")
        theirs = {ours: word for word, ours in hf.SCHEDULER_KWARGS.items()}
        arguments = {}
        for key, value, ours in self._leaves("scheduler", node, type(node)):
            if key not in ("warmup_steps", "warmup_ratio") and value != ours:
                arguments[theirs.get(key, key)] = "1-sqrt" if plain(value) == "one_minus_sqrt" else plain(value)
        saving = self.config.checkpoint
        if isinstance(node, scheduler.ReduceLROnPlateau | scheduler.Greedy) and greater(
            saving.greater_is_better, saving.metric_for_best_model
        ):
            arguments["mode"] = "max"
        if arguments:
            self.values["lr_scheduler_kwargs"] = arguments

    def _parallel(self) -> None:
        node = self.config.parallel
        if not is_dataclass(node):
            return self.remark("parallel._target_", node.get("_target_"))
        if isinstance(node, parallel.Single):
            self.remark(
                "parallel", "single", "the Trainer takes what the launcher starts; it comes back as parallel=ddp"
            )
        settings = {}
        for name, value, ours in self._leaves("parallel", node, type(node)):
            if name in hf.DEFAULTS:
                self.put(name, value, ours)
            elif value != ours:
                settings[name] = plain(value)
        if isinstance(node, parallel.Mesh):
            names = {f.name for f in fields(parallel.Mesh)} - {f.name for f in fields(parallel.FSDP)}
            sizes = {name: settings.pop(name) for name in sorted(names) if name in settings}
            self.remark("parallel", {"mesh": sizes}, "parallelism_config is an object that JSON does not hold")
        if isinstance(node, parallel.FSDP):
            self.values["fsdp"] = True
            if settings:
                self.values["fsdp_config"] = settings
        elif isinstance(node, parallel.DeepSpeed):
            self.values["deepspeed"] = node.config or self._deepspeed()

    def _deepspeed(self) -> dict[str, Any]:
        """Fields as a DeepSpeed configuration; what the arguments say too is `auto`."""
        formats = {n: {"enabled": "auto"} for n in ("bf16", "fp16") if getattr(self.config.precision, n)}
        zero = write_zero(self.config.parallel)
        return {"zero_optimization": zero, **dict.fromkeys(sharding.TWINS, "auto"), **formats}

    def _reporters(self) -> None:
        known = options("logging")
        names = []
        for name, node in self.config.logging.reporters.items():
            if name not in known or not is_dataclass(node):
                self.remark(f"logging.reporters.{name}", getattr(node, "_target_", None) or node.get("_target_"))
                continue
            if name not in ("console", "csv"):
                names.append(name)
            elif name == "csv":
                self.remark("logging", "csv")
            for key, value, ours in self._leaves(f"logging.reporters.{name}", node, type(node)):
                if hf.HOMES.get(key) == f"logging.reporters.{name}.{key}":
                    self.put(key, value, ours)
                elif value != ours:
                    self.remark(f"logging.reporters.{name}.{key}", value)
        if "console" not in self.config.logging.reporters:
            self.remarks.append("logging: without console; the Trainer always prints, and the console comes back")
        if names:
            self.values["report_to"] = names

    def _callbacks(self) -> None:
        for name, node in self.config.callbacks.items():
            if is_dataclass(node) and name == "early_stopping":
                words = ", ".join(f"{f.name}={getattr(node, f.name)}" for f in fields(node) if f.name != "_target_")
                self.remarks.append(f"callbacks.{name}: pass Trainer(callbacks=[EarlyStoppingCallback({words})])")
            else:
                self.remarks.append(f"callbacks.{name}: is an argument of the Trainer: Trainer(callbacks=)")


def plain(value: Any) -> Any:
    """JSON's kinds of values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def _matches(part: str, word: str) -> bool:
    """Whether an entry of OPTIM_ARGS is about this optimizer: a name or a family."""
    exact = {"sgd", "adagrad", "rmsprop", "adamw_torch_4bit", "adamw_torch_8bit"}
    return word == part if part in exact else part in word
