"""Bounds and rules across sections: each rule breaks in one line and holds on its own cure."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import isfunction
from pkgutil import iter_modules
from types import ModuleType

import pytest

from trainer.config import machine
from trainer.config.composer import Composition
from trainer.schema import checks
from trainer.schema.checks.check import RULES

Compose = Callable[..., Composition]

STEPS = ["evaluation.eval_strategy=steps"]
NO_EVAL = ["evaluation.eval_strategy=no"]

CASES: list[tuple[list[str], str, str]] = [
    (["optim.learning_rate=-1"], "is out of range; allowed: at least 0", "optim.learning_rate=0"),
    (["optim.learning_rate=inf"], "is not a finite number", "optim.learning_rate=1"),
    (["optim.weight_decay=nan"], "is not a finite number", "optim.weight_decay=0"),
    (["train.num_train_epochs=0"], "allowed: above 0", "train.num_train_epochs=0.5"),
    (["train.per_device_train_batch_size=0"], "allowed: at least 1", "train.per_device_train_batch_size=1"),
    (["train.max_steps=0"], "trains nothing", "train.max_steps=1"),
    (["train.max_steps=-2"], "is out of range", "train.max_steps=-1"),
    (["optim.adam_beta1=1"], "allowed: at least 0 and below 1", "optim.adam_beta1=0.9"),
    (["logging.logging_steps=2.5"], "neither a whole number of steps nor a share", "logging.logging_steps=2"),
    (["checkpoint.save_steps=0"], "allowed: above 0", "checkpoint.save_steps=0.5"),
    (["data.eval_dataset=null"], "needs data.eval_dataset", "evaluation.eval_strategy=no"),
    (
        ["data.eval_dataset=null", *NO_EVAL, "evaluation.eval_on_start=true"],
        "needs data.eval_dataset",
        "evaluation.eval_on_start=false",
    ),
    (
        [*NO_EVAL, "checkpoint.load_best_model_at_end=true"],
        "needs evaluation",
        "evaluation.eval_strategy=steps evaluation.eval_steps=100 checkpoint.save_steps=100",
    ),
    ([*NO_EVAL, "checkpoint.save_strategy=best"], "needs evaluation; fix: evaluation.eval_strategy=steps", STEPS[0]),
    ([*NO_EVAL, "scheduler=reduce_lr_on_plateau"], "needs evaluation", STEPS[0]),
    ([*NO_EVAL, "callbacks=early_stopping"], "callbacks.early_stopping (command line): needs evaluation", STEPS[0]),
    (
        ["checkpoint.load_best_model_at_end=true", "evaluation.eval_strategy=epoch"],
        "needs save_strategy (steps) to be eval_strategy (epoch) or best",
        "checkpoint.save_strategy=epoch",
    ),
    (
        ["checkpoint.load_best_model_at_end=true", *STEPS, "evaluation.eval_steps=100", "checkpoint.save_steps=150"],
        "to be a multiple of evaluation.eval_steps (100)",
        "checkpoint.save_steps=200",
    ),
    (
        ["checkpoint.load_best_model_at_end=true", *STEPS, "evaluation.eval_steps=0.1", "checkpoint.save_steps=0.25"],
        "to be a multiple",
        "checkpoint.save_steps=0.2",
    ),
    (["precision.bf16=true", "precision.fp16=true"], "excludes precision.fp16=true", "precision.fp16=false"),
    (["parallel=single", "launch.nproc_per_node=2"], "needs an engine for several ranks", "parallel=ddp"),
    (
        ["scheduler.warmup_steps=3", "scheduler.warmup_ratio=0.1"],
        "excludes scheduler.warmup_steps=3",
        "scheduler.warmup_steps=0",
    ),
    (["scheduler=cosine_with_min_lr"], "needs min_lr or min_lr_rate", "scheduler.min_lr_rate=0.1"),
    (
        ["scheduler=cosine_with_min_lr", "scheduler.min_lr_rate=0.1", "scheduler.min_lr=1e-5"],
        "excludes scheduler.min_lr_rate",
        "scheduler.min_lr=null",
    ),
    (
        ["scheduler=warmup_stable_decay"],
        "scheduler.num_decay_steps=null (default): this schedule needs it",
        "scheduler.num_decay_steps=9",
    ),
    (
        ["scheduler=polynomial", "scheduler.learning_rate_end=1"],
        "is not below optim.learning_rate",
        "scheduler.learning_rate_end=0",
    ),
    (["scheduler=reduce_lr_on_plateau", "scheduler.min_lr=1"], "is above optim.learning_rate", "scheduler.min_lr=0"),
    (["data.dataloader_prefetch_factor=2"], "needs worker processes", "data.dataloader_num_workers=1"),
    (["data.dataloader_persistent_workers=true"], "needs worker processes", "data.dataloader_num_workers=1"),
    (["data.dataloader_multiprocessing_context=fork"], "needs worker processes", "data.dataloader_num_workers=1"),
    (["model.n_embd=130"], "is not divisible by model.n_head=4", "model.n_embd=132"),
    (["data.train_dataset.block_size=256"], "is longer than model.block_size", "model.block_size=256"),
    (["data.train_dataset.split=test"], "allowed: train, eval", "data.train_dataset.split=train"),
    (["experiment=digits", "model.sizes=[10]"], "at least two widths", "model.sizes=[64,10]"),
    (["experiment=digits", "model.sizes=[10,10]"], "does not fit the digits", "model.sizes=[64,10]"),
    (["optim.foreach=true"], "excludes optim.fused=true", "optim.foreach=null"),
    (["optim=sgd", "optim.nesterov=true"], "needs optim.momentum above 0", "optim.momentum=0.9"),
]


def _with(overrides: list[str], cure: str) -> list[str]:
    given = {o.partition("=")[0]: o for o in [*overrides, *cure.split()]}
    return list(given.values())


@pytest.mark.parametrize(("overrides", "line", "cure"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_rule(compose: Compose, overrides: list[str], line: str, cure: str) -> None:
    found = [str(p) for p in compose(*overrides).problems]
    assert len(found) == 1, found
    assert line in found[0]
    assert "(" in found[0]
    assert not compose(*_with(overrides, cure)).problems


def test_a_rule_is_silent_while_what_it_looks_at_is_wrong(compose: Compose) -> None:
    found = [
        str(p) for p in compose("checkpoint.load_best_model_at_end=true", "evaluation.eval_strategy=stepz").problems
    ]
    assert len(found) == 1


MODULES = [import_module(name) for _, name, _ in iter_modules(checks.__path__, f"{checks.__name__}.")]


@pytest.mark.parametrize("module", [*MODULES, machine], ids=lambda module: module.__name__)
def test_every_rule_is_listed(module: ModuleType) -> None:
    """A rule that is written but not in RULES would check nothing."""
    rules = {
        function
        for name, function in vars(module).items()
        if isfunction(function)
        and function.__module__ == module.__name__
        and function.__annotations__ == {"config": "Config", "return": "Iterator[Problem]"}
    }
    listed = set(getattr(module, "RULES", ()))
    assert rules <= listed
    assert listed <= {*RULES, *machine.RULES}
