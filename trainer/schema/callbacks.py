"""`callbacks`: named objects that may steer a run."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import number


@dataclass(kw_only=True, slots=True)
class EarlyStopping:
    """Stop after so many evaluations in a row without improvement of checkpoint.metric_for_best_model
    (HF: EarlyStoppingCallback)."""

    _target_: str = "trainer.callbacks.early_stopping.EarlyStopping"
    early_stopping_patience: int = number(1, minimum=1)
    """Evaluations without improvement that end the run: patience 3 on a flat metric stops at evaluation 4."""
    early_stopping_threshold: float = number(0.0, minimum=0)
    """How much an improvement must exceed, absolute."""
