"""Configs that TrainingArguments can express: random ones, and their way there and back."""

from __future__ import annotations

import json
import random
import types
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from trainer.config.composer import Composition, compose
from trainer.errors import show
from trainer.interchange import experiment
from trainer.interchange.experiment import Experiment
from trainer.interchange.huggingface.incoming import translate
from trainer.interchange.huggingface.outgoing import Outgoing
from trainer.interchange.huggingface.translation import options
from trainer.schema import Config, huggingface
from trainer.schema.tree import hints, leaves, sections

TEXTS = {
    "run.output_dir": ["outputs/mine", "runs/a b"],
    "run.run_name": ["tiny", "a: b"],
    "run.project": ["huggingface", "other"],
    "run.debug": ["underflow_overflow"],
    "data.label_names": [["labels"], ["start", "end"]],
    "data.length_column_name": ["n"],
    "checkpoint.metric_for_best_model": ["loss", "eval_perplexity"],
    "checkpoint.resume_from_checkpoint": ["auto"],
    "hub.hub_model_id": ["me/mine"],
    "hub.hub_revision": ["dev"],
    "compile.torch_compile_backend": ["inductor", "eager"],
    "compile.torch_compile_mode": ["max-autotune"],
    "memory.activation_checkpointing_kwargs": [{"every_n_layers": 2}, {"use_reentrant": True}],
    "optim.optim_args": ["momentum=0.9", "foreach=true"],
}
SKIPPED = {"hub.hub_token", "compile.torch_compile", "compile.liger_kernel_config", "compile.use_liger_kernel"}
"""A secret; false means what None does; a package that is not installed."""

OPTIMIZERS = ["adamw", "adamw_fused", "sgd", "adagrad", "rmsprop", "adafactor", "grokadamw"]


def back(values: dict[str, Any], directory: Path) -> tuple[Composition, Experiment]:
    """Import exported values, as JSON, and compose the experiment."""
    found = translate(json.loads(json.dumps(values)))
    text = experiment.to_yaml(found, "imported")
    file = directory / "experiment" / "come_back.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return compose(["experiment=come_back"], config_dir=str(directory)), found


def comparable(composition: Composition) -> Config:
    """The config, without the default directory's time of day."""
    assert composition.config is not None, list(map(str, composition.problems))
    if composition.cfg.run._get_node("output_dir")._value() == sections()["run"]().output_dir:
        composition.config.run.output_dir = ""
    return composition.config


def exported(composition: Composition) -> Outgoing:
    assert composition.config is not None
    return Outgoing(composition.config, composition.cfg)


def random_config(seed: int) -> Composition:
    """A valid config with a dozen and more fields set; what the checks refuse is taken back."""
    rng = random.Random(seed)
    choices = {
        "optim": rng.choice(OPTIMIZERS),
        "scheduler": rng.choice([name for name in options("scheduler")]),
        "parallel": rng.choice(["ddp", "ddp", "fsdp", "zero1", "zero2", "zero3"]),
        "logging": rng.choice(["[console]", "[console,tensorboard]", "[wandb,console]"]),
    }
    settings = {key: _value(rng, key) for key in _keys(choices) if rng.random() < 0.4}
    while True:
        lines = [f"{key}={show_quoted(value)}" for key, value in settings.items()]
        composition = compose([*(f"{g}={o}" for g, o in choices.items()), *lines])
        if not composition.problems:
            return composition
        wrong = {key for p in composition.problems for key in (p.key, *p.related)}
        removed = [key for key in settings if key in wrong]
        for key in removed:
            del settings[key]
        for problem in composition.problems if not removed else ():
            key, _, value = (problem.fix or "").partition("=")
            if key in leaves() and key.startswith("scheduler."):  # a schedule that cannot do without
                settings[key] = float(value) if "." in value else int(value)
            else:
                group = problem.key.split(".")[0]
                choices[group] = {"optim": "adamw", "scheduler": "linear", "parallel": "ddp"}[group]


def _keys(choices: dict[str, str]) -> list[str]:
    keys = [
        key
        for name in huggingface.DEFAULTS
        if (key := huggingface.HOMES.get(name)) and key.rpartition(".")[0] in sections()
    ]
    for group in ("optim", "scheduler", "parallel"):
        cls = options(group)[choices[group]][0]
        assert cls
        readable = huggingface.OPTIM_ARGS.get(choices["optim"], "").split()
        names = [f.name for f in fields(cls) if f.name != "_target_"]
        if group == "optim":
            names = [name for name in names if name in huggingface.DEFAULTS or name in readable]
        keys += [f"{group}.{name}" for name in names]
    return [key for key in dict.fromkeys(keys) if key in leaves() and key not in SKIPPED]


def _value(rng: random.Random, key: str) -> Any:
    name = key.split(".")[-1]
    cls = leaves()[key]
    if key in TEXTS:
        return rng.choice(TEXTS[key])
    declared = next(f for f in fields(cls) if f.name == name)
    return _of(rng, hints(cls)[name], dict(declared.metadata))


def _of(rng: random.Random, hint: Any, bounds: dict[str, float]) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return _of(rng, rng.choice([kind for kind in get_args(hint) if kind is not type(None)]), bounds)
    if get_origin(hint) is list:
        return [_of(rng, get_args(hint)[0], bounds)]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return rng.choice(list(hint)).value
    if hint is bool:
        return rng.random() < 0.5
    low = bounds.get("minimum", bounds.get("above", 0))
    high = bounds.get("maximum", bounds.get("below", 1000))
    if hint is int:
        return rng.randint(int(low) + 1, int(high))
    if hint is float:
        return round(low + (min(high, low + 1) - low) * rng.uniform(0.1, 0.9), rng.choice([2, 6]))
    return "word"


def show_quoted(value: Any) -> str:
    """A value on Hydra's command line."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ",".join(map(show_quoted, value)) + "]"
    return show(value)
