"""Floor 0: what a config may hold. Dataclasses only; no torch, no I/O, no behaviour."""

from __future__ import annotations

from . import callbacks, data, logging, model, optim, parallel, scheduler, task
from .config import Config

__all__ = ["OPTIONS", "Config"]

OPTIONS: dict[str, dict[str, type]] = {
    "optim": {
        "optim": optim.Optim,
        "adamw": optim.AdamW,
        "sgd": optim.SGD,
        "adagrad": optim.Adagrad,
        "rmsprop": optim.RMSprop,
        "adafactor": optim.Adafactor,
        "muon": optim.Muon,
    },
    "scheduler": {
        "constant": scheduler.Constant,
        "constant_with_warmup": scheduler.Warmup,
        "linear": scheduler.Linear,
        "cosine": scheduler.Cosine,
        "cosine_with_restarts": scheduler.CosineWithRestarts,
        "cosine_with_min_lr": scheduler.CosineWithMinLR,
        "cosine_warmup_with_min_lr": scheduler.CosineWarmupWithMinLR,
        "polynomial": scheduler.Polynomial,
        "inverse_sqrt": scheduler.InverseSqrt,
        "warmup_stable_decay": scheduler.WarmupStableDecay,
        "reduce_lr_on_plateau": scheduler.ReduceLROnPlateau,
    },
    "parallel": {
        "single": parallel.Single,
        "ddp": parallel.DDP,
        "fsdp": parallel.FSDP,
        "deepspeed": parallel.DeepSpeed,
    },
    "model": {"gpt": model.GPT, "mlp": model.MLP, "hf_causal_lm": model.HFCausalLM},
    "data": {"text": data.TextBlocks, "digits": data.Digits},
    "task": {
        "language_modeling": task.LanguageModeling,
        "classification": task.Classification,
        "regression": task.Regression,
    },
    "reporters": {
        "console": logging.Console,
        "csv": logging.Csv,
        "tensorboard": logging.TensorBoard,
        "wandb": logging.Wandb,
    },
    "callbacks": {"early_stopping": callbacks.EarlyStopping},
}
"""Typed options, stored in Hydra as /schema/<group>/<name>; conf/<group>/*.yaml name them in their defaults."""
