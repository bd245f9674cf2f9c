"""The whole tree. Sections are fixed and typed; slots hold one chosen option with a `_target_`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from .checkpoint import Checkpoint
from .compile import Compile
from .data import Data
from .evaluation import Evaluation
from .fields import FREE, Drift
from .hub import Hub
from .launch import Launch
from .logging import Logging
from .memory import Memory
from .precision import Precision
from .run import Run
from .train import Train


@dataclass(kw_only=True, slots=True)
class Config:
    """One run, whole. Built by config/composer.py, checked by schema/checks, read by everyone else.

    The metadata `drift` holds for a section's fields that say nothing else (drift.py), `class_drift` for the class in a
    slot; both are decisions by default.
    """

    run: Run = field(default_factory=Run)
    train: Train = field(default_factory=Train)
    data: Data = field(default_factory=Data)
    model: Any = field(default=MISSING, metadata={"class_drift": Drift.incompatible})
    task: Any = MISSING
    optim: Any = field(default=MISSING, metadata={"class_drift": Drift.incompatible})
    scheduler: Any = MISSING
    precision: Precision = field(default_factory=Precision)
    parallel: Any = field(default=MISSING, metadata=FREE)
    memory: Memory = field(default_factory=Memory, metadata=FREE)
    compile: Compile = field(default_factory=Compile, metadata=FREE)
    evaluation: Evaluation = field(default_factory=Evaluation, metadata=FREE)
    checkpoint: Checkpoint = field(default_factory=Checkpoint, metadata=FREE)
    logging: Logging = field(default_factory=Logging, metadata=FREE)
    hub: Hub = field(default_factory=Hub, metadata=FREE)
    callbacks: dict[str, Any] = field(default_factory=dict, metadata=FREE)
    launch: Launch = field(default_factory=Launch, metadata=FREE)
    cluster: Any = field(default=None, metadata=FREE)
