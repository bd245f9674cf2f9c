"""The combinations, in TrainingArguments' words. 49 samples in batches of 8: 7 updates an epoch, the last of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.agreement.runs import (
    BASE,
    TOLERANCE,
    Arguments,
    mean_over_samples,
    optimizer_options,
    own_randomness,
    seeded_groups,
)

OPTIMIZERS = ["adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor"]
LEARNING_RATES = {"sgd": 0.1, "adagrad": 0.02, "schedule_free_sgd": 0.5}
PACKAGED = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"), "bitsandbytes"),
    **dict.fromkeys(("ademamix", "ademamix_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit"), "bitsandbytes"),
    **dict.fromkeys(("lion_32bit", "lion_8bit", "paged_lion_32bit", "paged_lion_8bit"), "bitsandbytes"),
    **dict.fromkeys(("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"), "bitsandbytes"),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
}
"""Optimizers of other packages that need nothing but their name: the module."""
MODULES = PACKAGED | {
    **dict.fromkeys(("schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam"), "schedulefree"),
    **dict.fromkeys(("galore_adamw", "galore_adafactor"), "galore_torch"),
    **dict.fromkeys(("galore_adamw_layerwise", "galore_adafactor_layerwise"), "galore_torch"),
    **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), "apollo_torch"),
}
"""Of the others too."""
SCHEDULE_FREE = ("schedule_free_sgd", "schedule_free_adamw", "schedule_free_radam")
UNCLIPPED: Arguments = {"max_grad_norm": 0.0}
PROJECTED: Arguments = {"optim_target_modules": "all-linear", "optim_args": "rank=8,update_proj_gap=5"}
SCHEDULES: list[Arguments] = [
    {"lr_scheduler_type": "constant"},
    {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4},
    {"lr_scheduler_type": "linear", "warmup_steps": 0.25},
    {"lr_scheduler_type": "cosine", "warmup_steps": 3, "lr_scheduler_kwargs": {"num_cycles": 0.8}},
    {"lr_scheduler_type": "cosine_with_restarts", "warmup_steps": 0.1, "lr_scheduler_kwargs": {"num_cycles": 3}},
    {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}},
    {"lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 0.3, "lr_scheduler_kwargs": {"min_lr_rate": 0.2}},
    {"lr_scheduler_type": "cosine_warmup_with_min_lr", "warmup_steps": 4, "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
    {
        "lr_scheduler_type": "cosine_warmup_with_min_lr",
        "warmup_steps": 4,
        "lr_scheduler_kwargs": {"min_lr": 5e-4, "warmup_lr_rate": 0.3},
    },
    {"lr_scheduler_type": "polynomial", "warmup_steps": 2, "lr_scheduler_kwargs": {"lr_end": 1e-4, "power": 2.0}},
    {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 3},
    {"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 5}},
    {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 3, "lr_scheduler_kwargs": {"num_decay_steps": 6}},
    {
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": 3,
        "lr_scheduler_kwargs": {
            "num_decay_steps": 6,
            "warmup_type": "cosine",
            "decay_type": "1-sqrt",
            "min_lr_ratio": 0.1,
        },
    },
]
PLATEAU: Arguments = {
    "lr_scheduler_type": "reduce_lr_on_plateau",
    "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "threshold": 0.05},
    "eval_strategy": "steps",
    "eval_steps": 2,
    "learning_rate": 0.03,
}


@dataclass(frozen=True)
class Row:
    """One combination."""

    kind: str
    """Of runs.KINDS."""
    arguments: Arguments
    on_purpose: str = ""
    """Where we differ, why; then the Trainer as it is must differ, and agree once ``remedy`` makes it do the same."""
    remedy: Arguments = field(default_factory=dict)
    """TrainingArguments that make the Trainer do as we do."""
    settings: Callable[[], dict[str, Any]] = dict
    """Arguments of the Trainer's constructor that do; or that both sides need, without ``on_purpose``."""
    ignored: tuple[str, ...] = ()
    """Numbers that are not compared."""
    ours: tuple[str, ...] = ()
    """Overrides that have no word among TrainingArguments."""

    @property
    def tolerance(self) -> float:
        """1e-6; where operations differ in their order, bf16 turns a last bit into one 65,000 times as large."""
        weighed = self.kind in ("gpt2", "sparse", "ragged") and self.arguments.get("gradient_accumulation_steps", 1) > 1
        smoothed = self.arguments.get("label_smoothing_factor")
        reordered = weighed or smoothed or self.on_purpose == WEIGHTS
        return 2e-3 if self.arguments.get("bf16") and reordered else TOLERANCE

    @property
    def name(self) -> str:
        words = [f"{name}={value}" for name, value in self.arguments.items()]
        return " ".join([self.kind, *words, *self.ours]).replace("'", "")


def optimizer(name: str, **more: Any) -> Arguments:
    return {"optim": name, "learning_rate": LEARNING_RATES.get(name, 5e-3), **more}


def _early_stopping() -> dict[str, Any]:
    from transformers import EarlyStoppingCallback

    return {"callbacks": [EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=0.1)]}


def _own_randomness() -> dict[str, Any]:
    return {"callbacks": [own_randomness()]}


BETAS = {"betas": (0.9, 0.95)}
RANDOM = "the loaders and an evaluation leave no trace in the training's random state: a resume needs no replay"
WEIGHTS = "each sample of an update weighs the same, the short micro-batch's too"


def rows() -> list[Row]:
    """All of them."""
    table = [Row("plain", {})]
    for i, name in enumerate(OPTIMIZERS):
        table += [
            Row("plain", optimizer(name, weight_decay=0.1, max_grad_norm=0.5, eval_strategy="epoch")),
            Row("scored", optimizer(name, max_grad_norm=0.0, **SCHEDULES[(2 * i + 1) % len(SCHEDULES)])),
            Row(
                "gpt2", optimizer(name, weight_decay=0.01, bf16=True, gradient_accumulation_steps=2, num_train_epochs=1)
            ),
        ]
    for i, name in enumerate(PACKAGED):
        schedule = SCHEDULES[(3 * i + 1) % len(SCHEDULES)]
        table.append(Row("wide", optimizer(name, weight_decay=0.1, max_grad_norm=0.5, max_steps=9) | schedule))
    for name in SCHEDULE_FREE:
        arguments = optimizer(name, weight_decay=0.1, lr_scheduler_type="constant", eval_strategy="epoch")
        table.append(Row("plain", arguments | {"save_strategy": "no"}))
    for name in ("galore_adamw", "galore_adafactor"):
        table.append(Row("plain", optimizer(name, lr_scheduler_type="cosine", max_grad_norm=0.5, **PROJECTED)))
    table += [
        Row(
            "plain",
            optimizer("galore_adamw_layerwise", lr_scheduler_type="constant", **PROJECTED, **UNCLIPPED),
            ignored=("grad_norm",),  # which the Trainer logs as 0 then
        ),
        Row(  # which the Trainer offers, and cannot build
            "plain",
            optimizer("galore_adafactor_layerwise", **PROJECTED, **UNCLIPPED),
            remedy={"optim": "galore_adafactor"},
        ),
        Row("plain", optimizer("apollo_adamw", adam_epsilon=1e-6, adam_beta2=0.999, **PROJECTED)),
    ]
    table += [Row("plain", schedule | {"max_steps": 13}) for schedule in SCHEDULES]
    table += [
        Row("plain", PLATEAU),
        Row("plain", optimizer("sgd", optim_args="momentum=0.9,nesterov=true", **SCHEDULES[2])),
        Row("plain", optimizer("sgd", optim_args="momentum=0.8,dampening=0.1", weight_decay=0.1)),
        Row("plain", optimizer("adagrad", optim_args="lr_decay=0.1,eps=1e-6")),
        Row("plain", optimizer("rmsprop", optim_args="momentum=0.5,alpha=0.9,centered=true")),
        Row("gpt2", {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6, "weight_decay": 0.3}),
        # accumulation, 16 bits, smoothing
        Row("plain", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "eval_strategy": "epoch"}),
        Row("plain", {"per_device_train_batch_size": 7, "gradient_accumulation_steps": 3, "bf16": True}),
        Row("plain", {"gradient_accumulation_steps": 2, "max_steps": 3, "label_smoothing_factor": 0.2}),
        Row("plain", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 5, "num_train_epochs": 1}),
        Row("scored", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "bf16": True}),
        Row("plain", {"bf16": True, "eval_strategy": "steps", "eval_steps": 5, "weight_decay": 0.1}),
        Row("scored", {"label_smoothing_factor": 0.1, "eval_strategy": "epoch"}),
        Row("plain", {"label_smoothing_factor": 0.3, "bf16": True, "eval_strategy": "steps", "eval_steps": 0.3}),
        Row("gpt2", {"gradient_accumulation_steps": 3, "eval_strategy": "epoch", "max_grad_norm": 0.3}),
        Row("gpt2", {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "num_train_epochs": 1.2}),
        Row("gpt2", {"label_smoothing_factor": 0.1, "eval_strategy": "epoch"}),
        Row("gpt2", {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 3, "bf16": True}),
        Row("gpt2", {"bf16": True, "max_steps": 9, **SCHEDULES[3]}),
        # lengths
        Row("plain", {"num_train_epochs": 0.5, "eval_strategy": "epoch"}),
        Row("plain", {"num_train_epochs": 1.5, "eval_strategy": "epoch", "save_strategy": "epoch", **SCHEDULES[2]}),
        Row("plain", {"num_train_epochs": 2.01, "logging_strategy": "epoch", "eval_strategy": "epoch"}),
        Row("plain", {"max_steps": 1, "eval_strategy": "steps"}),
        Row("plain", {"max_steps": 10, "num_train_epochs": 1, "logging_strategy": "epoch", "save_strategy": "epoch"}),
        Row("plain", {"max_steps": 9, "per_device_train_batch_size": 49, "per_device_eval_batch_size": 50}),
        Row("plain", {"per_device_train_batch_size": 64, "num_train_epochs": 4}),
        Row("plain", {"dataloader_drop_last": True}),
        Row("plain", {"seed": 11, "data_seed": 5}),
        Row("plain", {"train_sampling_strategy": "sequential"}),
        Row("plain", {"dataloader_num_workers": 1, "num_train_epochs": 1}),
        # logs, evaluations, checkpoints
        Row("plain", {"logging_steps": 4, "logging_first_step": True, "eval_strategy": "steps"}),
        Row("plain", {"logging_steps": 0.3, "eval_strategy": "steps", "save_steps": 0.45}),
        Row("plain", {"logging_strategy": "no", "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "no"}),
        Row("plain", {"eval_strategy": "steps", "eval_steps": 3, "eval_delay": 5, "per_device_eval_batch_size": 4}),
        Row("plain", {"eval_strategy": "steps", "eval_steps": 5, "eval_delay": 12, "eval_on_start": True}),
        Row("plain", {"eval_strategy": "epoch", "eval_delay": 1.5, "num_train_epochs": 3}),
        Row(
            "gpt2", {"eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True, "per_device_eval_batch_size": 6}
        ),
        Row("plain", {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 4, "save_total_limit": 2}),
        Row(
            "plain",
            {
                "eval_strategy": "steps",
                "eval_steps": 2,
                "save_steps": 2,
                "save_total_limit": 2,
                "load_best_model_at_end": True,
                "learning_rate": 0.1,
            },
        ),
        Row("plain", {"eval_strategy": "epoch", "save_strategy": "best", "metric_for_best_model": "loss"}),
        Row(
            "plain",
            {
                "eval_strategy": "steps",
                "eval_steps": 1,
                "save_strategy": "best",
                "metric_for_best_model": "eval_loss",
                "learning_rate": 0.1,
                "load_best_model_at_end": True,
            },
        ),
        Row(
            "plain",
            {
                "eval_strategy": "epoch",
                "save_strategy": "epoch",
                "num_train_epochs": 4,
                "learning_rate": 0.05,
                "save_total_limit": 2,
                "metric_for_best_model": "loss",
                "greater_is_better": True,
                "load_best_model_at_end": True,
            },
        ),
        Row(
            "plain",
            {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "loss", "learning_rate": 0.02},
            settings=_early_stopping,
            ours=(
                "callbacks=early_stopping",
                "callbacks.early_stopping.early_stopping_patience=1",
                "callbacks.early_stopping.early_stopping_threshold=0.1",
            ),
        ),
        # micro-batches and evaluation batches without a label
        Row("sparse", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6, "max_steps": 8}),
        Row("sparse", {"per_device_train_batch_size": 7, "per_device_eval_batch_size": 1, "eval_strategy": "epoch"}),
        # sentences of unequal lengths, and what is counted of them
        Row("ragged", {"gradient_accumulation_steps": 2, "include_num_input_tokens_seen": "all"}),
        Row("ragged", {"average_tokens_across_devices": False, "include_num_input_tokens_seen": "non_padding"}),
        # its order is the seed's here, and always that of the seed 42 in the Trainer
        Row(
            "ragged",
            {"train_sampling_strategy": "batch_rebalance", "gradient_accumulation_steps": 3, "seed": 42}
            | {"per_device_train_batch_size": 5, "num_train_epochs": 2},
            ignored=("epoch",),  # its shares are counted in micro-batches; the Trainer's last update has more of them
        ),
        # a stream has no length: its epochs are whole ones here, and shares of max_steps in the Trainer
        Row("stream", {"max_steps": 9, "eval_strategy": "epoch", "save_strategy": "epoch"}, ignored=("epoch",)),
        Row("stream", {"max_steps": 16, "per_device_train_batch_size": 10, **SCHEDULES[2]}, ignored=("epoch",)),
    ]
    return table + ON_PURPOSE


ON_PURPOSE = [
    Row(
        "plain",
        {"dataloader_drop_last": True, "eval_strategy": "epoch"},
        on_purpose="no sample of the evaluation is dropped",
        remedy={"per_device_eval_batch_size": 7},
    ),
    Row("gpt2", {"neftune_noise_alpha": 5.0, "num_train_epochs": 1}, on_purpose=RANDOM, settings=_own_randomness),
    Row(
        "plain",
        {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 6},
        on_purpose=WEIGHTS,
        settings=lambda: {"compute_loss_func": mean_over_samples},
    ),
    Row(
        "plain",
        {"gradient_accumulation_steps": 4, "bf16": True, "eval_strategy": "epoch", **optimizer("sgd")},
        on_purpose=WEIGHTS,
        settings=lambda: {"compute_loss_func": mean_over_samples},
    ),
    Row(
        "plain",
        PLATEAU | {"metric_for_best_model": "loss", "greater_is_better": True},
        on_purpose="the plateau's direction is the metric's; the Trainer's is always `min`",
        remedy={"lr_scheduler_kwargs": PLATEAU["lr_scheduler_kwargs"] | {"mode": "max"}},
    ),
    Row("plain", {}, on_purpose=RANDOM, settings=_own_randomness, ours=("model.dropout=0.3",)),
    Row(
        "ragged",
        {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 3},
        on_purpose="the order is a function of the seed, not of the training's random state",
        settings=lambda: {"callbacks": [seeded_groups(BASE["seed"])]},
    ),
    Row(
        "plain",
        optimizer("galore_adamw", weight_decay=0.1, adam_beta2=0.95, **PROJECTED),
        on_purpose="weight decay and betas act on GaLore's parameters too",
        settings=lambda: {"callbacks": [optimizer_options(BETAS, BETAS | {"weight_decay": 0.1})]},
    ),
    Row(
        "plain",
        optimizer("apollo_adamw", weight_decay=0.1, adam_beta2=0.95, **PROJECTED),
        on_purpose="weight decay, betas and eps act on all parameters",
        settings=lambda: {"callbacks": [optimizer_options(BETAS | {"eps": 1e-8}, {"weight_decay": 0.1})]},
    ),
    Row(
        "plain",
        optimizer("galore_adamw_layerwise", **PROJECTED, **UNCLIPPED),
        on_purpose="layerwise updates take the schedule's rate; the Trainer's take the peak's and log the schedule's",
        remedy={"optim": "galore_adamw"},
    ),
    Row(
        "plain",
        optimizer("apollo_adamw_layerwise", adam_epsilon=1e-6, **PROJECTED, **UNCLIPPED),
        on_purpose="layerwise projections are the usual ones, not the same for each weight; a norm is logged",
        remedy={"optim": "apollo_adamw"},
    ),
    Row(
        "plain",
        {"eval_strategy": "steps", "eval_steps": 3, "gradient_accumulation_steps": 2, "max_steps": 6},
        on_purpose=RANDOM,
        settings=_own_randomness,
        ours=("model.dropout=0.3",),
    ),
]
