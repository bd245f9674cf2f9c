"""`run`: what a run is called, where it writes, and what makes it repeatable."""

from __future__ import annotations

from dataclasses import dataclass, field

from .fields import FREE, MAX_SEED, number


@dataclass(kw_only=True, slots=True)
class Run:
    """Identity, place and seed of a run."""

    output_dir: str = field(default="outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}", metadata=FREE)
    """Directory of the run (HF: output_dir). `hydra.run.dir` defaults to it. A taken default gets a number."""
    run_name: str | None = field(default=None, metadata=FREE)
    """Name handed to the trackers (HF: run_name). Default: the last parts of the run's directory."""
    project: str = field(default="trainer", metadata=FREE)
    """Project handed to the trackers that group runs by project (HF: project)."""
    seed: int = number(42, minimum=0, maximum=MAX_SEED)
    """Seeds model initialisation, data order and dropout (HF: seed). Loaders and evaluations draw nothing from the
    training's random state; in HF each pass over a loader does, so that evaluating changes the dropout masks."""
    full_determinism: bool = False
    """torch.use_deterministic_algorithms and cuBLAS's deterministic workspace (HF: full_determinism)."""
    debug: str = field(default="", metadata=FREE)
    """Words, separated by spaces (HF: debug). `underflow_overflow`: the first nan or infinity in a module's weights,
    inputs or outputs ends the run, naming module and batch, with the largest and smallest numbers of the modules before
    it in train.log; slow. `tpu_metrics_debug`: torch_xla's metrics in train.log after each evaluation."""
    do_train: bool = True
    """Train. False: evaluate or predict, with the weights of checkpoint.resume_from_checkpoint (`auto`: the newest run
    with the same config) or else the model's own, in a directory of its own (HF: do_train, false by default, for
    scripts to read). data.train_dataset is not built then."""
    do_eval: bool = field(default=False, metadata=FREE)
    """Evaluate the final weights: after training those that `model/` holds, unless the last step's evaluation was of
    these (HF: do_eval, for scripts to read; eval_strategy alone says when training evaluates)."""
    do_predict: bool = field(default=False, metadata=FREE)
    """Predict data.predict_dataset with the final weights: predictions.safetensors (`predictions`, `label_ids`) in the
    data's order, and `test_*` metrics where it has labels (HF: do_predict, for scripts to read)."""
    use_cpu: bool = field(default=False, metadata=FREE)
    """Train on the CPU although accelerators are visible (HF: use_cpu)."""
    allow_packages: list[str] = field(default_factory=list)
    """Installed packages, or modules of them, of which a `_target_` may name anything: `[sentence_transformers]`. A
    class of a slot's type and your own code need no entry. Taken only from the command line and the project's conf/."""
    trust_remote_code: bool = False
    """Let a `_target_` run code that comes with a model or a data set: `trust_remote_code: true`,
    `weights_only: false`, `allow_pickle: true`. Taken only from the command line."""
