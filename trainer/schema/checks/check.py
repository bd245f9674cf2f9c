"""What a typed Config must satisfy before anything runs: bounds of fields and rules across sections, all at once.

Pure functions: no torch, no file is opened. A rule is a generator of Problems; RULES lists them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import Problem
from .. import callbacks, model, parallel, scheduler
from ..checkpoint import SaveStrategy
from ..config import Config
from ..data import Digits
from ..evaluation import IntervalStrategy
from . import cluster as cluster_checks
from . import hub as hub_checks
from . import optim as optim_checks
from . import parallel as parallel_checks
from . import train as trade_checks
from .evaluation import best_metric, metric_function, switches

Rule = Callable[[Config], Iterator[Problem]]


def check(config: Config) -> list[Problem]:
    """Every problem of ``config``; where it came from is filled in by the caller."""
    if misplaced := list(_misplaced(config, "")):
        return misplaced
    return [problem for rule in RULES for problem in rule(config)]


def _misplaced(node: Any, key: str) -> Iterator[Problem]:
    """Whole sections where a value belongs: OmegaConf lets an interpolation put them there."""
    for f in fields(node):
        value, name = getattr(node, f.name), f"{key}.{f.name}" if key else f.name
        declared = str(f.type)
        if is_dataclass(value) and not isinstance(value, type):
            if declared in ("Any", type(value).__name__):
                yield from _misplaced(value, name)
            else:
                yield Problem(key=name, what=f"refers to a whole {type(value).__name__}, not to a value")
        elif isinstance(value, dict | list) and type(value).__name__ not in declared and "Any" not in declared:
            yield Problem(key=name, value=value, what="refers to a mapping or list, not to a value")
        elif isinstance(value, str) and declared.startswith(("dict[", "list[")):
            yield Problem(key=name, value=value, what="refers to a text, not to a mapping or list")


def bounds(config: Config) -> Iterator[Problem]:
    """Each number lies within its field's bounds; nan and infinities are refused everywhere."""
    yield from _bounds(config, "")


def _bounds(node: Any, key: str) -> Iterator[Problem]:
    if is_dataclass(node) and not isinstance(node, type):
        for f in fields(node):
            name = f"{key}.{f.name}" if key else f.name
            value = getattr(node, f.name)
            if f.metadata and isinstance(value, int | float) and (problem := _out_of_bounds(name, value, f.metadata)):
                yield problem
            else:
                yield from _bounds(value, name)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _bounds(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _bounds(value, f"{key}.{i}")
    elif isinstance(node, float) and not math.isfinite(node):
        yield Problem(key=key, value=node, what="is not a finite number")


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an int may be too long for a float


def _out_of_bounds(key: str, value: float, limits: Any) -> Problem | None:
    ok = (
        _finite(value)
        and value >= limits.get("minimum", -math.inf)
        and value > limits.get("above", -math.inf)
        and value <= limits.get("maximum", math.inf)
        and value < limits.get("below", math.inf)
    )
    if ok:
        return None
    words = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}
    allowed = " and ".join(f"{words[k]} {limit}" for k, limit in limits.items())
    return Problem(
        key=key,
        value=value,
        what="is out of range" if _finite(value) else "is not a finite number",
        allowed=allowed,
    )


def intervals(config: Config) -> Iterator[Problem]:
    """Intervals are whole numbers of steps, or a share of them below 1."""
    for key, value, used in (
        (
            "logging.logging_steps",
            config.logging.logging_steps,
            config.logging.logging_strategy == IntervalStrategy.steps,
        ),
        (
            "evaluation.eval_steps",
            config.evaluation.eval_steps,
            config.evaluation.eval_strategy == IntervalStrategy.steps,
        ),
        ("checkpoint.save_steps", config.checkpoint.save_steps, config.checkpoint.save_strategy == SaveStrategy.steps),
    ):
        if used and value is not None and _finite(value) and value >= 1 and value != int(value):
            what = "is neither a whole number of steps nor a share below 1"
            yield Problem(key=key, value=value, what=what, fix=f"{key}={int(value)}")


def length(config: Config) -> Iterator[Problem]:
    """max_steps=0 would train nothing; HF trains one step."""
    if config.train.max_steps == 0:
        what = "trains nothing"
        yield Problem(
            key="train.max_steps",
            value=0,
            what=what,
            allowed="-1 (use num_train_epochs) or at least 1",
            fix="train.max_steps=1",
        )


def evaluation_data(config: Config) -> Iterator[Problem]:
    """Evaluation needs something to evaluate on."""
    evaluation = config.evaluation
    asked = [("eval_strategy", evaluation.eval_strategy)] if evaluation.eval_strategy != IntervalStrategy.no else []
    asked += [("eval_on_start", True)] if evaluation.eval_on_start else []  # type: ignore[list-item]
    if not config.data.eval_dataset:
        for name, value in asked:
            off = "no" if name == "eval_strategy" else "false"
            fix = f"data.eval_dataset._target_=package.Dataset or evaluation.{name}={off}"
            what = "needs data.eval_dataset, which is null"
            yield Problem(
                key=f"evaluation.{name}", value=value, what=what, fix=fix, related=("data.eval_dataset", "data")
            )


def evaluates(config: Config) -> bool:
    """Whether a run evaluates while it trains."""
    return config.evaluation.eval_strategy != IntervalStrategy.no


_EVALUATE = "evaluation.eval_strategy=steps"
_EVAL_KEYS = ("evaluation.eval_strategy",)


def needs_evaluation(config: Config) -> Iterator[Problem]:
    """What acts on an evaluation's result needs evaluations."""
    if evaluates(config):
        return
    checkpoint, what = config.checkpoint, "needs evaluation"
    if checkpoint.load_best_model_at_end:
        yield Problem(key="checkpoint.load_best_model_at_end", value=True, what=what, fix=_EVALUATE, related=_EVAL_KEYS)
    if checkpoint.save_strategy == SaveStrategy.best:
        yield Problem(key="checkpoint.save_strategy", value="best", what=what, fix=_EVALUATE, related=_EVAL_KEYS)
    if isinstance(config.scheduler, scheduler.ReduceLROnPlateau):
        yield Problem(key="scheduler", value="reduce_lr_on_plateau", what=what, fix=_EVALUATE, related=_EVAL_KEYS)
    for name, node in config.callbacks.items():
        if isinstance(node, callbacks.EarlyStopping):
            yield Problem(key=f"callbacks.{name}", what=what, fix=_EVALUATE, related=_EVAL_KEYS)


def best_model(config: Config) -> Iterator[Problem]:
    """load_best_model_at_end can only load what was saved right after an evaluation (HF's rules 5 to 8)."""
    saving, evaluation = config.checkpoint, config.evaluation
    if not (saving.load_best_model_at_end and evaluates(config)) or saving.save_strategy == SaveStrategy.best:
        return
    key = "checkpoint.load_best_model_at_end"
    related: tuple[str, ...] = ("checkpoint.save_strategy", "evaluation.eval_strategy")
    if saving.save_strategy.value != evaluation.eval_strategy.value:
        what = f"needs save_strategy ({saving.save_strategy}) to be eval_strategy ({evaluation.eval_strategy}) or best"
        yield Problem(
            key=key, value=True, what=what, fix=f"checkpoint.save_strategy={evaluation.eval_strategy}", related=related
        )
    elif evaluation.eval_strategy == IntervalStrategy.steps:
        every, save = evaluation.eval_steps or config.logging.logging_steps, saving.save_steps
        if not (_finite(every) and _finite(save)) or every <= 0 or save <= 0:
            return
        ratio = save / every
        if (every < 1) != (save < 1) or abs(ratio - round(ratio)) > 1e-6 or round(ratio) < 1:
            what = f"needs checkpoint.save_steps ({save}) to be a multiple of evaluation.eval_steps ({every})"
            related = (*related, "checkpoint.save_steps", "evaluation.eval_steps", "logging.logging_steps")
            yield Problem(key=key, value=True, what=what, fix=f"checkpoint.save_steps={every}", related=related)


def precision(config: Config) -> Iterator[Problem]:
    """One 16-bit format at a time; DeepSpeed has no fp16 on CPUs."""
    if config.precision.bf16 and config.precision.fp16:
        what = "excludes precision.fp16=true"
        yield Problem(key="precision.bf16", value=True, what=what, fix="precision=bf16", related=("precision.fp16",))
    on_deepspeed = isinstance(config.parallel, parallel.DeepSpeed)
    if config.precision.fp16 and on_deepspeed and not parallel_checks.sees_gpu(config):
        what = "is not supported by DeepSpeed on a CPU"
        yield Problem(key="precision.fp16", value=True, what=what, fix="precision=bf16", related=("parallel",))


def schedule(config: Config) -> Iterator[Problem]:
    """Arguments of a schedule that exclude or need each other."""
    node = config.scheduler
    if isinstance(node, scheduler.Warmup) and node.warmup_steps > 0 and node.warmup_ratio > 0:
        what = f"excludes scheduler.warmup_steps={node.warmup_steps}"
        related = ("scheduler.warmup_steps",)
        yield Problem(
            key="scheduler.warmup_ratio",
            value=node.warmup_ratio,
            what=what,
            fix="scheduler.warmup_steps=0",
            related=related,
        )
    if isinstance(node, scheduler.CosineWithMinLR | scheduler.CosineWarmupWithMinLR):
        if node.min_lr is None and node.min_lr_rate is None:
            what = "this schedule needs min_lr or min_lr_rate"
            yield Problem(key="scheduler.min_lr_rate", value=None, what=what, fix="scheduler.min_lr_rate=0.1")
        elif node.min_lr is not None and node.min_lr_rate is not None:
            what = f"excludes scheduler.min_lr_rate={node.min_lr_rate}"
            yield Problem(key="scheduler.min_lr", value=node.min_lr, what=what, fix="scheduler.min_lr_rate=null")
    if isinstance(node, scheduler.WarmupStableDecay) and node.num_decay_steps is None:
        yield Problem(
            key="scheduler.num_decay_steps",
            value=None,
            what="this schedule needs it",
            fix="scheduler.num_decay_steps=100",
        )
    rate = getattr(config.optim, "learning_rate", None)
    if isinstance(node, scheduler.Polynomial) and rate is not None and node.learning_rate_end >= rate:
        what = f"is not below optim.learning_rate={rate}"
        fix, related = f"scheduler.learning_rate_end={rate / 100}", ("optim.learning_rate",)
        yield Problem(
            key="scheduler.learning_rate_end", value=node.learning_rate_end, what=what, fix=fix, related=related
        )
    if isinstance(rate, int | float) and isinstance(getattr(node, "min_lr", None), float) and node.min_lr > rate:
        what = f"is above optim.learning_rate={rate}"
        yield Problem(
            key="scheduler.min_lr",
            value=node.min_lr,
            what=what,
            fix=f"scheduler.min_lr={rate}",
            related=("optim.learning_rate",),
        )


def workers(config: Config) -> Iterator[Problem]:
    """Settings of worker processes need worker processes."""
    data = config.data
    if data.dataloader_num_workers > 0:
        return
    for name, value in (
        ("dataloader_prefetch_factor", data.dataloader_prefetch_factor),
        ("dataloader_persistent_workers", data.dataloader_persistent_workers or None),
        ("dataloader_multiprocessing_context", data.dataloader_multiprocessing_context),
    ):
        if value is not None:
            what, related = "needs worker processes", ("data.dataloader_num_workers",)
            yield Problem(
                key=f"data.{name}", value=value, what=what, fix="data.dataloader_num_workers=2", related=related
            )


def ranks(config: Config) -> Iterator[Problem]:
    """parallel=single is one process."""
    wanted = config.launch.nproc_per_node
    if isinstance(config.parallel, parallel.Single) and wanted is not None and wanted > 1:
        what = "needs an engine for several ranks"
        yield Problem(key="launch.nproc_per_node", value=wanted, what=what, fix="parallel=ddp", related=("parallel",))


def models(config: Config) -> Iterator[Problem]:
    """Sizes of our own models that must fit each other and the data."""
    node, data = config.model, config.data.train_dataset
    if isinstance(node, model.GPT):
        if node.n_head > 0 and node.n_embd % node.n_head:
            what = f"is not divisible by model.n_head={node.n_head}"
            fix = f"model.n_embd={max(node.n_head, node.n_embd // node.n_head * node.n_head)}"
            yield Problem(key="model.n_embd", value=node.n_embd, what=what, fix=fix, related=("model.n_head",))
        for name in ("train_dataset", "eval_dataset"):
            block = getattr(getattr(config.data, name), "block_size", None)
            if isinstance(block, int) and block > node.block_size:
                what = f"is longer than model.block_size={node.block_size}"
                fix, related = f"model.block_size={block}", ("model.block_size",)
                yield Problem(key=f"data.{name}.block_size", value=block, what=what, fix=fix, related=related)
    if isinstance(node, model.MLP):
        if len(node.sizes) < 2 or min(node.sizes) < 1:
            what = "needs at least two widths, each at least 1"
            yield Problem(key="model.sizes", value=node.sizes, what=what, fix="model.sizes=[64,128,10]")
        elif isinstance(data, Digits) and (node.sizes[0] != 64 or node.sizes[-1] < 10):
            what = "does not fit the digits: 64 pixels in, 10 classes out"
            yield Problem(
                key="model.sizes", value=node.sizes, what=what, fix="model.sizes=[64,128,10]", related=("data",)
            )


def splits(config: Config) -> Iterator[Problem]:
    """The shipped data sets have two splits."""
    for name in ("train_dataset", "eval_dataset"):
        split = getattr(getattr(config.data, name), "split", None)
        if split is not None and split not in ("train", "eval"):
            yield Problem(key=f"data.{name}.split", value=split, what="there is no such split", allowed="train, eval")


def optimizers(config: Config) -> Iterator[Problem]:
    """torch's own conditions on optimizer arguments."""
    node = config.optim
    if getattr(node, "foreach", None) and getattr(node, "fused", None):
        yield Problem(key="optim.foreach", value=True, what="excludes optim.fused=true", fix="optim.foreach=null")
    if getattr(node, "nesterov", False) and hasattr(node, "dampening") and (node.momentum <= 0 or node.dampening != 0):
        what = "needs optim.momentum above 0 and optim.dampening=0"
        yield Problem(key="optim.nesterov", value=True, what=what, fix="optim.momentum=0.9")


def resume(config: Config) -> Iterator[Problem]:
    """A checkpoint given by its path must be there."""
    path = config.checkpoint.resume_from_checkpoint
    if path is not None and path != "auto" and not Path(path).expanduser().is_dir():
        key, fix = "checkpoint.resume_from_checkpoint", "checkpoint.resume_from_checkpoint=auto"
        yield Problem(
            key=key, value=path, what="there is no such checkpoint directory", allowed="auto or a path", fix=fix
        )


PACKAGES: dict[str, tuple[str, str]] = {
    "DeepSpeed": ("deepspeed", "deepspeed"),
    "Wandb": ("wandb", "wandb"),
    "TensorBoard": ("tensorboard", "tensorboard"),
    "MLflow": ("mlflow", "mlflow"),
    "Trackio": ("trackio", "trackio"),
    "Comet": ("comet_ml", "comet_ml"),
    "ClearML": ("clearml", "clearml"),
    "DVCLive": ("dvclive", "dvclive"),
    "CodeCarbon": ("codecarbon", "codecarbon"),
    "Neptune": ("neptune", "neptune"),
    "SwanLab": ("swanlab", "swanlab"),
    "Aim": ("aim", "aim"),
    "Flyte": ("flytekit", "flytekit"),
    "AzureML": ("azureml", "azureml-core"),
    "HFCausalLM": ("transformers", "transformers"),
    "Digits": ("sklearn", "scikit-learn"),
}
"""Options that need a package beyond the core, by class: (module, name to install). By name, since to import all of
them takes long."""


def packages(config: Config) -> Iterator[Problem]:
    """What the chosen options import is installed (found, not imported)."""
    nodes = {"model": config.model, "parallel": config.parallel, "data.train_dataset": config.data.train_dataset}
    nodes |= {f"logging.reporters.{name}": node for name, node in config.logging.reporters.items()}
    for key, node in nodes.items():
        module, name = PACKAGES.get(type(node).__name__, (None, ""))
        if module is not None and find_spec(module) is None:
            yield Problem(key=key, what=f"needs the package {name}, which is not installed", fix=f"pip install {name}")


RULES: tuple[Rule, ...] = (
    bounds,
    intervals,
    length,
    evaluation_data,
    needs_evaluation,
    best_model,
    best_metric,
    metric_function,
    switches,
    precision,
    schedule,
    workers,
    ranks,
    models,
    splits,
    optimizers,
    resume,
    packages,
    *trade_checks.RULES,
    *optim_checks.RULES,
    *parallel_checks.RULES,
    *cluster_checks.RULES,
    *hub_checks.RULES,
)
