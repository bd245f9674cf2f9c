"""Rules of `scheduler`: arguments that exclude or need each other, and phases that fit into the run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...errors import Problem
from .. import scheduler
from ..config import Config
from .evaluation import needs_evaluation
from .sentences import excludes, wrong


def plateau(config: Config) -> Iterator[Problem]:
    """reduce_lr_on_plateau follows the results of evaluations."""
    if isinstance(config.scheduler, scheduler.ReduceLROnPlateau):
        yield from needs_evaluation(config, "scheduler", "reduce_lr_on_plateau")


def warmup(config: Config) -> Iterator[Problem]:
    """Warmup is given in steps or as a ratio."""
    node = config.scheduler
    if isinstance(node, scheduler.Warmup) and node.warmup_steps > 0 and node.warmup_ratio > 0:
        other = f"scheduler.warmup_steps={node.warmup_steps}"
        yield excludes("scheduler.warmup_ratio", node.warmup_ratio, other, fix="scheduler.warmup_steps=0")
    total = config.train.max_steps
    if isinstance(node, scheduler.Warmup) and 1 <= total < node.warmup_steps:
        what, fix = f"is more than train.max_steps={total}", f"scheduler.warmup_steps={total // 10}"
        yield wrong("scheduler.warmup_steps", node.warmup_steps, what, fix=fix)


def minimum(config: Config) -> Iterator[Problem]:
    """A cosine's floor is given as a rate or as a ratio."""
    node = config.scheduler
    if not isinstance(node, scheduler.CosineWithMinLR | scheduler.CosineWarmupWithMinLR):
        return
    if node.min_lr is None and node.min_lr_rate is None:
        what = "this schedule needs min_lr or min_lr_rate"
        yield wrong("scheduler.min_lr_rate", None, what, fix="scheduler.min_lr_rate=0.1")
    elif node.min_lr is not None and node.min_lr_rate is not None:
        other = f"scheduler.min_lr_rate={node.min_lr_rate}"
        yield excludes("scheduler.min_lr", node.min_lr, other, fix="scheduler.min_lr_rate=null")


def rates(config: Config) -> Iterator[Problem]:
    """A schedule ends at or above its floor, and below the peak."""
    node, rate = config.scheduler, getattr(config.optim, "learning_rate", None)
    if not isinstance(rate, int | float):
        return
    if isinstance(node, scheduler.Polynomial) and node.learning_rate_end >= rate:
        what, fix = f"is not below optim.learning_rate={rate}", f"scheduler.learning_rate_end={rate / 100}"
        yield wrong("scheduler.learning_rate_end", node.learning_rate_end, what, fix=fix)
    floor = getattr(node, "min_lr", None)
    if isinstance(floor, float) and floor > rate:
        what, fix = f"is above optim.learning_rate={rate}", f"scheduler.min_lr={rate}"
        yield wrong("scheduler.min_lr", floor, what, fix=fix)


def decay(config: Config) -> Iterator[Problem]:
    """warmup_stable_decay has a decay, whose phases fit into max_steps where that is given."""
    node, total, key = config.scheduler, config.train.max_steps, "scheduler.num_decay_steps"
    if not isinstance(node, scheduler.WarmupStableDecay):
        return
    if node.num_decay_steps is None:
        yield wrong(key, None, "this schedule needs it", fix=f"{key}=100")
        return
    steps = node.warmup_steps or math.ceil(max(0, total) * node.warmup_ratio)
    stable = node.num_stable_steps or 0
    if total >= 1 and steps <= total < steps + stable + node.num_decay_steps:
        plateau = f", {stable} of the plateau" if stable else ""
        what = f"and {steps} steps of warmup{plateau} are more than train.max_steps={total}"
        fix = (
            f"{key}={total - steps - stable}"
            if steps + stable < total
            else f"train.max_steps={steps + stable + node.num_decay_steps}"
        )
        yield wrong(key, node.num_decay_steps, what, fix=fix)


RULES = (plateau, warmup, minimum, rates, decay)
