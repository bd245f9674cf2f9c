"""The same run twice: by transformers' Trainer, and by the real runner with a config composed from overrides.

A run is written once, in TrainingArguments' words; ours are found in the project's own table of names.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tests import jobs
from tests.agreement import parts
from trainer.config.composer import compose
from trainer.errors import show
from trainer.logging.jsonl import read
from trainer.run import directory as run_directory
from trainer.schema import huggingface

Arguments = dict[str, Any]
BASE: Arguments = {"seed": 7, "logging_steps": 1, "learning_rate": 5e-3, "num_train_epochs": 2}
"""What every run starts from."""
SCHEDULE_NAMES = {"lr_end": "learning_rate_end"}
"""The keys of lr_scheduler_kwargs that have another name here."""

WIDE = 48
GPT2_CONFIG = "{" + ",".join(f"{name}:{show(value)}" for name, value in parts.GPT2.items()) + "}"
KINDS = {
    # a module that gives logits here, and its own loss to the Trainer, which knows no other way
    "plain": ["model._target_=tests.agreement.parts.Net", "task=classification"],
    "scored": ["model._target_=tests.agreement.parts.ScoredNet", "task=classification"],
    "stream": ["model._target_=tests.agreement.parts.Net", "task=classification"],
    "gpt2": ["model=hf_causal_lm", "model.model_type=gpt2", f"model.config={GPT2_CONFIG}", "task=language_modeling"],
}
KINDS["sparse"] = KINDS["ragged"] = KINDS["gpt2"]
KINDS["wide"] = [*KINDS["plain"], f"model.width={WIDE}"]
"""What is trained, in our words."""
DATA: dict[str, tuple[Any, Any]] = {
    "plain": (parts.Points, parts.Points),
    "stream": (parts.Stream, parts.Points),
    "gpt2": (parts.Sentences, parts.Sentences),
    "sparse": (parts.Sparse, parts.Sparse),
    "ragged": (parts.Ragged, parts.Ragged),
}
"""Training and evaluation data."""


LOGGED = ("grad_norm", "learning_rate", "num_input_tokens_seen")


@dataclass
class Run:
    """What a run left."""

    training: list[dict[str, float]]
    """Logs: step, epoch, loss, and of LOGGED what is there."""
    evaluations: list[dict[str, float]]
    """step, epoch, eval_loss."""
    train_loss: float
    checkpoints: set[str]
    best_step: int | None
    weights: dict[str, Tensor] = field(default_factory=dict)


# transformers ------------------------------------------------------------------------------------------------------


def theirs(
    kind: str, arguments: Arguments, directory: Path, *, dropout: float = 0.0, nudged: bool = False, **settings: Any
) -> Run:
    """transformers' Trainer; ``settings`` are its constructor's. ``nudged`` starts it a last bit away."""
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import set_seed

    with _alone():
        arguments = BASE | {"use_cpu": True, "report_to": "none", "disable_tqdm": True} | arguments
        set_seed(arguments["seed"])
        model = _model(kind, dropout)
        if nudged:
            _nudge(model)
        train, held_out = DATA.get(kind, DATA["plain"])
        trainer = Trainer(
            model=model,
            args=TrainingArguments(output_dir=str(directory), **arguments),
            train_dataset=train(),
            eval_dataset=held_out(held_out=True),
            **({"data_collator": parts.padded} if kind == "ragged" else {}),
            **settings,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    history = trainer.state.log_history
    return Run(
        training=_logs(history, "loss", *LOGGED),
        evaluations=_logs(history, "eval_loss"),
        train_loss=history[-1]["train_loss"],
        checkpoints={path.name for path in directory.glob("checkpoint-*")},
        best_step=trainer.state.best_global_step,
        weights={name: value.detach().clone() for name, value in model.state_dict().items()},
    )


def _model(kind: str, dropout: float) -> nn.Module:
    if kind not in ("gpt2", "sparse", "ragged"):
        return parts.ScoredNet(dropout, WIDE if kind == "wide" else parts.WIDTH)
    from transformers import GPT2Config, GPT2LMHeadModel

    model: nn.Module = GPT2LMHeadModel(GPT2Config(**parts.GPT2))
    # 5.23 does not recognise this class as a causal model: it would count each first label, which nothing predicts
    model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model


def _nudge(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 2**-23 * torch.randn(parameter.shape, generator=generator).sign())


def mean_over_samples(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """The Trainer's own remedy for unequal micro-batches: a sum over the samples of the whole update."""
    total = F.cross_entropy(outputs["logits"], labels, reduction="sum")
    mean: Tensor = total / num_items_in_batch
    return mean


def optimizer_options(*options: dict[str, float]) -> Any:
    """A callback that sets options of the optimizer's param groups, one dictionary for each."""
    from transformers import TrainerCallback

    class Options(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, optimizer: Any, **__: Any) -> None:
            for group, given in zip(optimizer.param_groups, options, strict=True):
                group.update(given)

    return Options()


def seeded_groups(seed: int) -> Any:
    """A callback that gives LengthGroupedSampler, which draws from the training's randomness, a generator per epoch."""
    from transformers import TrainerCallback

    class Seeded(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, _: Any, state: Any, *__: Any, train_dataloader: Any, **___: Any) -> None:
            sampler = train_dataloader.base_dataloader.batch_sampler.sampler
            sampler.generator = torch.Generator().manual_seed(seed + round(state.epoch or 0))

    return Seeded()


def own_randomness() -> Any:
    """A callback that keeps the loaders, which draw a seed at each pass, off the training's random state."""
    from transformers import TrainerCallback

    class OwnRandomness(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, train_dataloader: Any, **__: Any) -> None:
            train_dataloader.base_dataloader.generator = torch.Generator()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.state = torch.get_rng_state()

        def on_evaluate(self, *_: Any, **__: Any) -> None:
            torch.set_rng_state(self.state)

    return OwnRandomness()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One thread, no warnings, and no trace in accelerate's singletons or in the environment."""
    from accelerate.state import AcceleratorState, GradientState  # type: ignore[import-untyped]
    from transformers.utils import logging

    environment, threads, verbosity = dict(os.environ), torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
        os.environ.clear()
        os.environ.update(environment)


# Ours --------------------------------------------------------------------------------------------------------------


def ours(kind: str, arguments: Arguments, directory: Path, *more: str) -> Run:
    """Our runner, in a child process; ``more`` are further overrides."""
    train, held_out = DATA.get(kind, DATA["plain"])
    composition = compose(
        [
            *("experiment=null", "parallel=single", "logging=none", "run.use_cpu=true", *KINDS[kind]),
            f"data.train_dataset._target_=tests.agreement.parts.{train.__name__}",
            f"data.eval_dataset._target_=tests.agreement.parts.{held_out.__name__}",
            "data.eval_dataset.held_out=true",
            *overrides(BASE | arguments),
            *more,
        ]
    )
    assert not composition.problems
    assert composition.config is not None
    assert jobs.train(composition.config, directory) == [0]
    records = list(read(directory / "metrics.jsonl"))
    return Run(
        training=_logs(records, "loss", *LOGGED),
        evaluations=_logs(records, "eval_loss"),
        train_loss=next(record["train_loss"] for record in records if "train_loss" in record),
        checkpoints={path.name for path in (directory / "checkpoints").glob("checkpoint-*")},
        best_step=((run_directory.read(directory)["result"] or {}).get("best") or {}).get("step"),
        weights=load_file(directory / "model" / "model.safetensors"),
    )


def overrides(arguments: Arguments) -> list[str]:
    """TrainingArguments' words in ours."""
    return [text for name, value in arguments.items() for text in _override(name, value)]


def _override(name: str, value: Any) -> Iterator[str]:
    if name in ("optim", "lr_scheduler_type"):
        group = {"optim": "optim", "lr_scheduler_type": "scheduler"}[name]
        yield f"{group}={huggingface.choice_word(group, value)}"
    elif name == "lr_scheduler_kwargs":
        for key, inner in value.items():
            yield f"scheduler.{SCHEDULE_NAMES.get(key, key)}={str(inner).replace('1-sqrt', 'one_minus_sqrt')}"
    elif name == "optim_args":
        for pair in value.split(","):
            yield f"optim.{pair}"
    elif name == "warmup_steps" and 0 < value < 1:
        yield f"scheduler.warmup_ratio={value}"
    else:
        yield f"{huggingface.home(name)}={show(value)}"


# Both --------------------------------------------------------------------------------------------------------------


def _logs(history: list[dict[str, Any]], key: str, *more: str) -> list[dict[str, float]]:
    names = ("step", "epoch", key, *more)
    return [{name: record[name] for name in names if name in record} for record in history if key in record]


def relative(a: float, b: float) -> float:
    """Their distance over the larger one; infinite where one is not a number."""
    if a == b:
        return 0.0
    return abs(a - b) / max(abs(a), abs(b)) if math.isfinite(a - b) else math.inf


@dataclass
class Differences:
    """What two runs disagree in: largest relative differences, and what is not a number."""

    numbers: dict[str, float]
    rest: list[str]

    def beyond(self, tolerance: float, unstable: Differences | None = None) -> str:
        """What is more than so much, or than ten times what the run makes of a last bit; empty if nothing is."""
        limits = dict.fromkeys(self.numbers, tolerance) | {"learning_rate": 0.0, "step": 0.0, "epoch": 1e-12}
        if unstable is not None:
            limits = {
                name: max(limit, 10 * unstable.numbers[name])
                for name, limit in limits.items()
                if name in unstable.numbers
            }
        bad = {k: v for k, v in self.numbers.items() if not v <= limits[k]}
        return "; ".join([*self.rest, *[f"{name} differs by {value:.1e}" for name, value in bad.items()]])


TOLERANCE = 1e-6
NOISE = "c_attn.bias"
"""Attention's key bias has no gradient but rounding; Adam moves it a learning rate by that. No loss depends on it."""


def compare(a: Run, b: Run, *, best: bool) -> Differences:
    """All that ours (``a``) and theirs logged and left."""
    numbers = {"train_loss": relative(a.train_loss, b.train_loss)}
    rest = []
    for what in ("training", "evaluations"):
        left, right = getattr(a, what), getattr(b, what)
        if [r["step"] for r in left] != [r["step"] for r in right]:
            rest.append(f"{what} at steps {[r['step'] for r in left]} and {[r['step'] for r in right]}")
            continue
        for x, y in zip(left, right, strict=True):
            for name in x:
                numbers[name] = max(numbers.get(name, 0.0), relative(x[name], y.get(name, math.nan)))
    if a.checkpoints != b.checkpoints:
        rest.append(f"checkpoints {sorted(a.checkpoints)} and {sorted(b.checkpoints)}")
    if best and a.best_step != b.best_step:
        rest.append(f"best step {a.best_step} and {b.best_step}")
    shared = {name for name in a.weights.keys() & b.weights.keys() if not name.endswith(NOISE)}
    assert shared, (a.weights.keys(), b.weights.keys())
    square = sum(float((a.weights[name] - b.weights[name]).double().square().sum()) for name in shared)
    size = sum(float(b.weights[name].double().square().sum()) for name in shared)
    numbers["weights"] = math.sqrt(square / size)
    return Differences(numbers, rest)
