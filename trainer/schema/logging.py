"""`logging`: when training metrics are logged, and to whom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .evaluation import IntervalStrategy
from .fields import Choice, number


class TokenCount(Choice):
    no = "no"
    all = "all"
    non_padding = "non_padding"


class LogLevel(Choice):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


@dataclass(kw_only=True, slots=True)
class Logging:
    """Intervals and reporters. metrics.jsonl and train.log are always written."""

    logging_strategy: IntervalStrategy = IntervalStrategy.steps
    """When to log; the end's summary and evaluations are logged in any case (HF: logging_strategy)."""
    logging_steps: int | float = number(500, above=0)
    """Interval for logging_strategy=steps; below 1 a share of all steps (HF: logging_steps)."""
    logging_first_step: bool = False
    """Log step 1 too (HF: logging_first_step)."""
    logging_nan_inf_filter: bool = True
    """What train.nan_policy=skip and rollback left out is counted in `nan_inf_count`; with true the logged loss is the
    mean of the other updates (nan without any), with false it is nan (HF: logging_nan_inf_filter, which puts the
    running mean in place of a bad loss and tells nobody, and drops bad evaluation losses; here those stay)."""
    include_num_input_tokens_seen: TokenCount = TokenCount.no
    """Log `num_input_tokens_seen` and `train_tokens_per_second`, over all ranks (HF: include_num_input_tokens_seen).
    Counted are the elements of the model's main input; `non_padding` leaves out what attention_mask masks, or else what
    is the model config's pad_token_id. A resumed run goes on counting."""
    include_tokens_per_second: bool = False
    """Log `train_tokens_per_second`, since this process started training (HF 4.x: include_tokens_per_second)."""
    skip_memory_metrics: bool = True
    """False adds `init_mem_*` and `train_mem_*` to the end's record: bytes gained, and the peak beyond the larger of
    start and end, of the process (`cpu`) and of the GPU (`gpu`), on rank 0 (HF: skip_memory_metrics)."""
    disable_tqdm: bool | None = None
    """True: plain lines, not a progress bar; None: plain lines where stdout is not a terminal (HF: disable_tqdm)."""
    log_level: LogLevel = LogLevel.info
    """Level of train.log; stderr gets warnings and worse (HF: log_level)."""
    log_level_replica: LogLevel = LogLevel.warning
    """Level on the other ranks (HF: log_level_replica)."""
    log_on_each_node: bool = True
    """log_level holds for the first rank of each machine; false: for rank 0 alone (HF: log_on_each_node)."""
    reporter_timeout: float = number(60.0, above=0)
    """Seconds one call of a reporter may take; then it is switched off with a warning and the run goes on."""
    reporters: dict[str, Any] = field(default_factory=dict)
    """Chosen by `logging=console`, `logging=[console,wandb]`; set as `logging.reporters.wandb.project=x`."""


@dataclass(kw_only=True, slots=True)
class Console:
    """A progress bar with step, loss, rate and time left on a terminal; plain lines elsewhere."""

    _target_: str = "trainer.logging.console.Console"


@dataclass(kw_only=True, slots=True)
class Csv:
    """metrics.csv in the run's directory: one row per log, one column per metric."""

    _target_: str = "trainer.logging.csv.Csv"


@dataclass(kw_only=True, slots=True)
class TensorBoard:
    """TensorBoard event files."""

    _target_: str = "trainer.logging.tensorboard.TensorBoard"
    log_dir: str | None = None
    """Where the event files go; None: `tensorboard/` in the run's directory (HF 4.x: logging_dir)."""


class WandbMode(Choice):
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class Wandb:
    """Weights & Biases; the API key comes from `wandb login` or WANDB_API_KEY."""

    _target_: str = "trainer.logging.wandb.Wandb"
    project: str = "${run.project}"
    name: str | None = "${run.run_name}"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    mode: WandbMode | None = None
    """None: WANDB_MODE, else online."""
