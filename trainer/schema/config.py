"""The whole tree. Sections are fixed and typed; slots hold one chosen option with a `_target_`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from .checkpoint import Checkpoint
from .compile import Compile
from .data import Data
from .evaluation import Evaluation
from .hub import Hub
from .launch import Launch
from .logging import Logging
from .memory import Memory
from .precision import Precision
from .run import Run
from .train import Train


@dataclass(kw_only=True, slots=True)
class Config:
    """One run, whole. Built by config/composer.py, checked by schema/checks, read by everyone else."""

    run: Run = field(default_factory=Run)
    train: Train = field(default_factory=Train)
    data: Data = field(default_factory=Data)
    model: Any = MISSING
    task: Any = MISSING
    optim: Any = MISSING
    scheduler: Any = MISSING
    precision: Precision = field(default_factory=Precision)
    parallel: Any = MISSING
    memory: Memory = field(default_factory=Memory)
    compile: Compile = field(default_factory=Compile)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    logging: Logging = field(default_factory=Logging)
    hub: Hub = field(default_factory=Hub)
    callbacks: dict[str, Any] = field(default_factory=dict)
    launch: Launch = field(default_factory=Launch)
    cluster: Any = None
