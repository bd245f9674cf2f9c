"""Plain state of a run: what callbacks read and checkpoints keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(kw_only=True, slots=True)
class State:
    """Where a run stands. JSON-able as a whole: checkpoints keep it as it is."""

    step: int = 0
    """Optimizer updates done (HF: global_step)."""
    max_steps: int = 0
    """Optimizer updates of the whole run."""
    epoch: float = 0.0
    """Passes over the data done, with fraction."""
    num_train_epochs: float = 0.0
    num_input_tokens_seen: int = 0
    """Tokens of the whole run up to the last log or checkpoint, where they are counted."""
    best_metric: float | None = None
    best_step: int | None = None
    """Step of the evaluation that gave best_metric."""
    best_checkpoint: int | None = None
    """The last best step that was saved (HF: best_model_checkpoint)."""
    log_history: list[dict[str, Any]] = field(default_factory=list)
    """The records of this process's lifetime, as written to metrics.jsonl (not kept in checkpoints)."""


@dataclass(kw_only=True, slots=True)
class Control:
    """What a callback may ask for at a step's end (HF: TrainerControl). The ranks agree on the union."""

    should_training_stop: bool = False
    should_log: bool = False
    should_evaluate: bool = False
    should_save: bool = False


@dataclass(kw_only=True, slots=True)
class RunInfo:
    """What a reporter learns about the run when it starts."""

    directory: Path
    run_id: str
    run_name: str
    project: str
    config: dict[str, Any]
    """The composed config, resolved, secrets masked."""
    resumed_step: int
    """0 for a fresh run, else the step of the checkpoint it goes on from."""
