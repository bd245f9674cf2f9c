"""`evaluation`: when to evaluate and on how much at a time."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Choice, number


class IntervalStrategy(Choice):
    """Never, every so many steps, or at each epoch's end (HF: IntervalStrategy)."""

    no = "no"
    steps = "steps"
    epoch = "epoch"


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """Evaluation inside a training run."""

    eval_strategy: IntervalStrategy = IntervalStrategy.no
    """When to evaluate; with `steps` the last step is evaluated too (HF: eval_strategy)."""
    eval_steps: int | float | None = number(None, above=0)
    """Interval for eval_strategy=steps; below 1 a share of all steps. None: logging.logging_steps (HF: eval_steps)."""
    eval_delay: float = number(0.0, minimum=0)
    """Steps (or epochs, with eval_strategy=epoch) before the first evaluation (HF: eval_delay)."""
    eval_on_start: bool = False
    """Evaluate once before the first step (HF: eval_on_start)."""
    per_device_eval_batch_size: int = number(8, minimum=1)
    """Samples of one evaluation batch on one device (HF: per_device_eval_batch_size)."""
