"""`checkpoint`: what is saved when, which one is the best, and where a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import Choice, number


class SaveStrategy(Choice):
    """Never, every so many steps, at each epoch's end, or when the metric improves (HF: SaveStrategy)."""

    no = "no"
    steps = "steps"
    epoch = "epoch"
    best = "best"


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """Checkpoints appear whole (temporary directory, fsync, one rename) and are verified by checksum before loading."""

    save_strategy: SaveStrategy = SaveStrategy.steps
    """When to save; with `steps` the last step is saved too (HF: save_strategy)."""
    save_steps: int | float = number(500, above=0)
    """Interval for save_strategy=steps; below 1 a share of all steps (HF: save_steps)."""
    save_total_limit: int | None = number(None, minimum=1)
    """Keep so many checkpoints: the newest and the best are never removed (HF: save_total_limit; its end removes the
    newest one if only one is kept and another is the best)."""
    save_only_model: bool = False
    """Save weights only; such a checkpoint cannot be resumed from (HF: save_only_model)."""
    async_save: bool = False
    """Write checkpoints in a thread: a step waits for the copy to the CPU's memory (this rank's state once more), not
    for the disk. One at a time; the next save, and the run's end, wait for it (torch: dcp.async_save)."""
    load_best_model_at_end: bool = False
    """Export the best checkpoint's weights as `model/` (HF: load_best_model_at_end)."""
    metric_for_best_model: str | None = None
    """Evaluation metric, with or without `eval_`; None: `loss` where one is needed (HF: metric_for_best_model)."""
    greater_is_better: bool | None = None
    """Direction of the metric; None: unless its name ends in `loss` (HF: greater_is_better)."""
    resume_from_checkpoint: str | None = None
    """`auto` (the newest checkpoint of this run's directory, or of the newest unfinished run with the same config) or a
    checkpoint's path (HF: resume_from_checkpoint)."""
    allow_drift: list[str] = field(default_factory=list)
    """Keys that a resumed run may change against the checkpoint it resumes from, `[optim.learning_rate]`; a section or
    a slot stands for everything in it. They take effect: the optimizer gets the new values, the schedule continues by
    its new definition at the step it has reached. data.train_dataset also allows other data of the same config."""
    ignore_data_skip: bool = False
    """A resumed run begins its epoch's data anew instead of going on after the last batch (HF: ignore_data_skip). The
    steps go on counting, so such a run ends elsewhere than the uninterrupted one."""
    restore_callback_states_from_checkpoint: bool = True
    """Callbacks go on from their state in the checkpoint; false: they start afresh (HF:
    restore_callback_states_from_checkpoint, false by default: its early stopping forgets)."""
    enable_jit_checkpoint: bool = True
    """SIGTERM and SIGUSR1 write a checkpoint before the run ends; false: the run ends with the last one it has (HF:
    enable_jit_checkpoint, false by default). Ctrl-C always writes one."""
    save_safetensors: bool = True
    """Write `model/` as safetensors; false: as pytorch_model.bin, with torch.save (HF 4.x: save_safetensors).
    Checkpoints are safetensors in any case."""
    save_on_each_node: bool = False
    """Must be false: every rank writes its own part of a checkpoint into the run's directory, which all nodes share
    (HF: save_on_each_node, for nodes without a common file system)."""
