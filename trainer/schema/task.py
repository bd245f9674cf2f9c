"""`task`: what a model's output is compared with, and by which metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .fields import FREE

IGNORE_INDEX = -100
"""The target that no loss counts (torch: cross_entropy's `ignore_index`), and what ragged targets, and ragged arrays of
an evaluation, are padded with (as in Hugging Face's collators and Trainer)."""
TARGET_KEYS = ("labels", "label", "target")
"""Keys under which a dict batch may hold its targets, unless data.label_names names others."""


@dataclass(kw_only=True, slots=True)
class LanguageModeling:
    """Next-token cross entropy in nats per token; evaluation adds perplexity."""

    _target_: str = "trainer.task.language_modeling.LanguageModeling"


@dataclass(kw_only=True, slots=True)
class Classification:
    """Cross entropy of logits and class indices."""

    _target_: str = "trainer.task.classification.Classification"
    metrics: dict[str, Any] = field(default_factory=dict, metadata=FREE)
    """Named torchmetrics targets, fed (logits, targets) in evaluation: `eval_<name>`."""


@dataclass(kw_only=True, slots=True)
class Regression:
    """Mean squared error of outputs and targets."""

    _target_: str = "trainer.task.regression.Regression"
    metrics: dict[str, Any] = field(default_factory=dict, metadata=FREE)
    """Named torchmetrics targets, fed (outputs, targets) in evaluation: `eval_<name>`."""
