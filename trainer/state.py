"""The state of a run as plain values: what callbacks read and checkpoints save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


SAVED = ("step", "epoch", "best_metric", "best_step", "best_checkpoint", "num_input_tokens_seen")


@dataclass(kw_only=True, slots=True)
class State:
    """Where a run stands."""

    step: int = 0
    """Optimizer updates done (HF: global_step)."""
    max_steps: int = 0
    """Optimizer updates of the whole run."""
    epoch: float = 0.0
    """Passes over the data so far, with the fraction of the current one."""
    num_train_epochs: float = 0.0
    num_input_tokens_seen: int = 0
    """Tokens of the whole run up to the last log or checkpoint; 0 unless they are counted."""
    best_metric: float | None = None
    best_step: int | None = None
    """Step of the evaluation that gave best_metric."""
    best_checkpoint: int | None = None
    """The last best step that was saved (HF: best_model_checkpoint)."""

    def state_dict(self) -> dict[str, Any]:
        """The fields that a checkpoint saves; the others follow from the config."""
        return {name: getattr(self, name) for name in SAVED}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Set the saved fields; one that an older version did not save stays as it is."""
        for name in SAVED:
            setattr(self, name, saved.get(name, getattr(self, name)))


@dataclass(kw_only=True, slots=True)
class Control:
    """What a callback may ask for (HF: TrainerControl).

    The flags take effect at the end of the step, on all ranks if any rank sets them.
    """

    should_training_stop: bool = False
    should_log: bool = False
    should_evaluate: bool = False
    should_save: bool = False
    _values: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def log(self, values: Mapping[str, float | Tensor]) -> None:
        """Add values to the next record, the one that metrics.jsonl, reporters and on_log get.

        A later value replaces an earlier one of the same name. Tensors have one element and are read when the record is
        written, so that no step waits for the device. With several ranks the record has rank 0's values.
        """
        self._values.update(values)

    def take_values(self) -> dict[str, float]:
        """The values logged since the last record, as Python numbers."""
        values, self._values = self._values, {}
        return {name: value if isinstance(value, int | float) else value.item() for name, value in values.items()}


@dataclass(kw_only=True, slots=True)
class RunInfo:
    """What a reporter is given when it starts."""

    directory: Path
    run_id: str
    run_name: str
    project: str
    config: dict[str, Any]
    """The composed config, resolved, secrets masked."""
    resumed_step: int
    """0 for a new run, else the step of the checkpoint that it resumes from."""
