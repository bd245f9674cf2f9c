"""`scheduler`: Hugging Face's schedules. `m(t)` in the docstrings is the learning rate's factor at step t (from 0);
`T` the number of steps, `w` the warmup steps, `p = (t - w) / max(1, T - w)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Choice, number


@dataclass(kw_only=True, slots=True)
class Constant:
    """m(t) = 1. (HF: constant)"""

    _target_: str = "trainer.scheduler.schedules.constant"


@dataclass(kw_only=True, slots=True)
class Warmup:
    """Linear warmup from 0, the part shared by the schedules below. (HF: constant_with_warmup)"""

    _target_: str = "trainer.scheduler.schedules.constant_with_warmup"
    warmup_steps: int = number(0, minimum=0)
    """Steps of linear warmup (HF: warmup_steps, where a float below 1 means a ratio; here that is warmup_ratio)."""
    warmup_ratio: float = number(0.0, minimum=0, below=1)
    """Share of T spent on warmup, rounded up (HF 4.x: warmup_ratio). Exclusive with warmup_steps."""


@dataclass(kw_only=True, slots=True)
class Linear(Warmup):
    """m(t) = max(0, 1 - p) after warmup. (HF: linear)"""

    _target_: str = "trainer.scheduler.schedules.linear"


@dataclass(kw_only=True, slots=True)
class Cosine(Warmup):
    """m(t) = max(0, (1 + cos(2 pi num_cycles p)) / 2) after warmup. (HF: cosine)"""

    _target_: str = "trainer.scheduler.schedules.cosine"
    num_cycles: float = number(0.5, above=0)
    """Whole cosine waves; 0.5 falls once to 0."""


@dataclass(kw_only=True, slots=True)
class CosineWithRestarts(Warmup):
    """m(t) = (1 + cos(pi ((num_cycles p) mod 1))) / 2 after warmup. (HF: cosine_with_restarts)"""

    _target_: str = "trainer.scheduler.schedules.cosine_with_restarts"
    num_cycles: int = number(1, minimum=1)
    """Falls from 1 to 0, each after a hard restart."""


@dataclass(kw_only=True, slots=True)
class CosineWithMinLR(Warmup):
    """Cosine to a floor r: m(t) = (1 + cos(2 pi num_cycles p)) / 2 (1 - r) + r. (HF: cosine_with_min_lr)"""

    _target_: str = "trainer.scheduler.schedules.cosine_with_min_lr"
    num_cycles: float = number(0.5, above=0)
    min_lr: float | None = number(None, minimum=0)
    """The floor as a learning rate; exclusive with min_lr_rate, one of them is needed."""
    min_lr_rate: float | None = number(None, minimum=0, maximum=1)
    """The floor as a share of learning_rate."""


@dataclass(kw_only=True, slots=True)
class CosineWarmupWithMinLR(Warmup):
    """Cosine to a floor whose warmup does not start at 0. (HF: cosine_warmup_with_min_lr)"""

    _target_: str = "trainer.scheduler.schedules.cosine_warmup_with_min_lr"
    num_cycles: float = number(0.5, above=0)
    min_lr: float | None = number(None, minimum=0)
    min_lr_rate: float | None = number(None, minimum=0, maximum=1)
    warmup_lr_rate: float | None = number(None, minimum=0, maximum=1)
    """m(0); None gives 1 / w."""


@dataclass(kw_only=True, slots=True)
class Polynomial(Warmup):
    """From 1 to learning_rate_end / learning_rate with exponent `power`. (HF: polynomial)"""

    _target_: str = "trainer.scheduler.schedules.polynomial"
    learning_rate_end: float = number(1e-7, minimum=0)
    """Learning rate at T and after (HF: lr_scheduler_kwargs.lr_end); below optim.learning_rate."""
    power: float = number(1.0, above=0)


@dataclass(kw_only=True, slots=True)
class InverseSqrt(Warmup):
    """m(t) = 1 / sqrt((t + ts - w) / ts) after warmup, ts = timescale, else w, else 10000. (HF: inverse_sqrt)"""

    _target_: str = "trainer.scheduler.schedules.inverse_sqrt"
    timescale: int | None = number(None, minimum=1)


class WarmupType(Choice):
    linear = "linear"
    cosine = "cosine"
    # a name cannot hold a dash; OmegaConf matches an Enum by its name, so the word differs from HF's 1-sqrt
    one_minus_sqrt = "one_minus_sqrt"


@dataclass(kw_only=True, slots=True)
class WarmupStableDecay(Warmup):
    """Warmup, a plateau, a decay over the last steps. (HF: warmup_stable_decay)"""

    _target_: str = "trainer.scheduler.schedules.warmup_stable_decay"
    num_decay_steps: int | None = number(None, minimum=0)
    """Steps of decay; required."""
    num_stable_steps: int | None = number(None, minimum=0)
    """Steps of the plateau; None: what T leaves between warmup and decay."""
    warmup_type: WarmupType = WarmupType.linear
    decay_type: WarmupType = WarmupType.cosine
    min_lr_ratio: float = number(0.0, minimum=0, maximum=1)
    num_cycles: float = number(0.5, above=0)


class ThresholdMode(Choice):
    rel = "rel"
    abs = "abs"


@dataclass(kw_only=True, slots=True)
class ReduceLROnPlateau:
    """torch's ReduceLROnPlateau, stepped after each evaluation with checkpoint.metric_for_best_model; its direction is
    that metric's (HF leaves it at `min`). (HF: reduce_lr_on_plateau)"""

    _target_: str = "trainer.scheduler.schedules.reduce_lr_on_plateau"
    factor: float = number(0.1, above=0, below=1)
    patience: int = number(10, minimum=0)
    threshold: float = number(1e-4, minimum=0)
    threshold_mode: ThresholdMode = ThresholdMode.rel
    cooldown: int = number(0, minimum=0)
    min_lr: float = number(0.0, minimum=0)
    eps: float = number(1e-8, minimum=0)


@dataclass(kw_only=True, slots=True)
class Greedy(ReduceLROnPlateau):
    """Larger (divided by `factor`) after evaluations that improve, smaller after those that do not; stepped, and its
    direction chosen, as reduce_lr_on_plateau's. (HF: greedy)"""

    _target_: str = "trainer.scheduler.greedy.greedy"
    factor: float = number(0.95, above=0, below=1)
    patience: int = number(10, minimum=0)
    """Evaluations in a row beyond which the rate changes."""
    threshold: float = number(1e-6, minimum=0)
    threshold_mode: ThresholdMode = ThresholdMode.abs
    cooldown: int = number(0, minimum=0)
    """Evaluations without counting after a decrease."""
    warmup: int = number(0, minimum=0)
    """Evaluations without counting after an increase."""
    min_lr: float = number(1e-3, minimum=0)
    """HF's default is above its learning_rate of 5e-5, where it only ever grows; here that is an error."""
    max_lr: float = number(1.0, above=0)
    smooth: bool = False
    """Compare the mean of the last window_size metrics."""
    window_size: int = number(50, minimum=1)
    reset_start: int = number(500, minimum=1)
    """Decreases at min_lr after which everything starts anew."""
