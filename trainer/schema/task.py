"""`task`: what a model's output is compared with, and by which metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True)
class LanguageModeling:
    """Next-token cross entropy in nats per token; evaluation adds perplexity."""

    _target_: str = "trainer.task.language_modeling.LanguageModeling"


@dataclass(kw_only=True, slots=True)
class Classification:
    """Cross entropy of logits and class indices."""

    _target_: str = "trainer.task.classification.Classification"
    metrics: dict[str, Any] = field(default_factory=dict)
    """Named torchmetrics targets, fed (logits, targets) in evaluation: `eval_<name>`."""


@dataclass(kw_only=True, slots=True)
class Regression:
    """Mean squared error of outputs and targets."""

    _target_: str = "trainer.task.regression.Regression"
    metrics: dict[str, Any] = field(default_factory=dict)
    """Named torchmetrics targets, fed (outputs, targets) in evaluation: `eval_<name>`."""
