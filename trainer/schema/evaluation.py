"""`evaluation`: when to evaluate and on how much at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import Choice, number


class IntervalStrategy(Choice):
    """Never, every so many steps, or at each epoch's end, which the run's end is too (HF: IntervalStrategy)."""

    no = "no"
    steps = "steps"
    epoch = "epoch"


class MetricInput(Choice):
    """What evaluation.compute_metrics gets besides predictions and labels."""

    inputs = "inputs"
    loss = "loss"


@dataclass(kw_only=True, slots=True)
class Evaluation:
    """When to evaluate, and what is made of the outputs; run.do_predict's pass heeds all but the first four fields.

    Numbers and their order do not depend on the number of ranks, and no sample counts twice.
    """

    eval_strategy: IntervalStrategy = IntervalStrategy.no
    """When to evaluate while training; with `steps` the last step is evaluated too (HF: eval_strategy, which also turns
    do_eval on)."""
    eval_steps: int | float | None = number(None, above=0)
    """Interval for eval_strategy=steps; below 1 a share of all steps. None: logging.logging_steps (HF: eval_steps)."""
    eval_delay: float = number(0.0, minimum=0)
    """Steps (or epochs, with eval_strategy=epoch) before the first evaluation (HF: eval_delay)."""
    eval_on_start: bool = False
    """Evaluate once before the first step (HF: eval_on_start)."""
    per_device_eval_batch_size: int = number(8, minimum=1)
    """Samples of one evaluation batch on one device (HF: per_device_eval_batch_size)."""
    compute_metrics: str | None = None
    """Dotted name of a function from an EvalPrediction (HF's: predictions, label_ids, inputs, losses; numpy arrays in
    the data's order, on rank 0 alone) to a dict of numbers: `eval_<name>`. A class is made once, without arguments, and
    its object called (HF: Trainer(compute_metrics=)). `task.metrics` needs no code and keeps no predictions."""
    prediction_loss_only: bool = False
    """Measure the loss alone: no metrics, and no file of predictions (HF: prediction_loss_only)."""
    include_for_metrics: list[MetricInput] = field(default_factory=list)
    """What else EvalPrediction holds: `inputs` (the model's main input), `loss` (a batch's mean, for each of its
    samples) (HF: include_for_metrics)."""
    batch_eval_metrics: bool = False
    """Call compute_metrics(prediction, compute_result=BOOL) for every batch of all ranks, true with the last one, whose
    result counts: nothing is kept. It gets tensors on the device (HF: batch_eval_metrics; with `inputs` the main input
    of all ranks, where HF passes one rank's whole batch)."""
    eval_accumulation_steps: int | None = number(None, minimum=1)
    """Move what is kept for compute_metrics, or of predictions, from the devices to rank 0's memory every so many
    batches; None: at the end (HF: eval_accumulation_steps)."""
    eval_do_concat_batches: bool = True
    """False: compute_metrics gets lists with an entry per batch (of all ranks), true: whole arrays, ragged ones padded
    with -100 (HF: eval_do_concat_batches)."""
    eval_use_gather_object: bool = False
    """Let predictions hold any Python objects: a list in them is one of per-sample items, and run.do_predict writes
    predictions.jsonl (HF: eval_use_gather_object, which a bug limits to the first evaluation)."""
