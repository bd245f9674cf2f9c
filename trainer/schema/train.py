"""`train`: how much is trained, in which portions, and what happens when a number goes bad."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import FREE, Choice, number


class NanPolicy(Choice):
    """What to do when a step's gradients are not finite."""

    abort = "abort"
    skip = "skip"
    rollback = "rollback"


@dataclass(kw_only=True, slots=True)
class Train:
    """Length and batch arithmetic of the training loop; a step is one optimizer update."""

    per_device_train_batch_size: int = number(8, minimum=1)
    """Samples of one micro-batch on one device (HF: per_device_train_batch_size)."""
    num_train_epochs: float = number(3.0, above=0, maximum=1_000_000_000)
    """Passes over the data when max_steps is -1; a fraction trains part of the last epoch (HF: num_train_epochs)."""
    max_steps: int = number(-1, minimum=-1)
    """Optimizer updates; above 0 it overrides num_train_epochs and repeats the data as needed (HF: max_steps).
    -1 means num_train_epochs; 0 is refused (HF would train one step)."""
    gradient_accumulation_steps: int = number(1, minimum=1)
    """Micro-batches per optimizer update (HF: gradient_accumulation_steps). The last update of an epoch may have fewer;
    each sample of an update weighs the same (HF gives a short last micro-batch the weight of a full one)."""
    max_grad_norm: float = number(1.0, minimum=0)
    """Global gradient norm to clip to; 0 clips nothing and still logs the norm (HF: max_grad_norm)."""
    average_tokens_across_devices: bool = True
    """Weigh each token of an update the same over all ranks; false: over the tokens of the rank it is on, so that ranks
    count the same whatever they hold (HF: average_tokens_across_devices). Tokens are the labels that the loss
    averages over; a task that does not count them weighs samples."""
    label_smoothing_factor: float = number(0.0, minimum=0, maximum=1)
    """e in (1 - e) * NLL + e * mean over classes of -log p, in training and evaluation alike (HF:
    label_smoothing_factor). The model's own loss is not used then: it is called without the labels."""
    neftune_noise_alpha: float | None = number(None, above=0)
    """Adds uniform noise in +-alpha / sqrt(sequence length * width) to the input embeddings while training (HF:
    neftune_noise_alpha; Jain et al. 2023)."""
    auto_find_batch_size: bool = field(default=False, metadata=FREE)
    """When memory runs out, start over from step 0 with 0.9 times per_device_train_batch_size, rounded down (HF:
    auto_find_batch_size). The config keeps its number; the log and the manifest's `train_batch_size` say what fits. All
    ranks shrink together. A run that goes on from a checkpoint keeps that checkpoint's size."""
    nan_policy: NanPolicy = NanPolicy.abort
    """When gradients are not finite: `abort` the run, `skip` the update, or `rollback` to the newest checkpoint and go
    on after the bad batch. `abort` looks at every step on a CPU, and at every log and save on a GPU (no synchronisation
    between); the other two look at every step. No checkpoint is saved after a bad step. fp16's scaler skips overflows
    itself; with `abort` they do not end the run."""
    max_nonfinite_steps: int = number(25, minimum=1)
    """Give the run up at this many updates in a row that were not finite: skipped, rolled back, or overflowed in fp16.
    (fp16's loss scale starts at 2^16 and is halved at each overflow.) With `rollback` the row ends only behind its last
    bad step."""
