"""Hugging Face's schedules, equal to transformers' to the bit; schema/scheduler.py has the formulas.

The functions of transformers.optimization are not used because transformers is an optional dependency and they return
LambdaLR, which takes 10 us per step where Schedule takes 1; the tests compare the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, cos, pi, sqrt
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..schema import scheduler as schema
from .schedule import Factor, Schedule


def constant(node: schema.Constant, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    return Schedule(optimizer, lambda t: 1.0)


def constant_with_warmup(node: schema.Warmup, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    return Schedule(optimizer, _warmed_up(_warmup_steps(node, num_training_steps), lambda t: 1.0))


def linear(node: schema.Linear, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup = _warmup_steps(node, num_training_steps)
    span = max(1, num_training_steps - warmup)
    return Schedule(optimizer, _warmed_up(warmup, lambda t: max(0.0, (num_training_steps - t) / span)))


def cosine(node: schema.Cosine, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup = _warmup_steps(node, num_training_steps)
    return Schedule(optimizer, _warmed_up(warmup, _cosine(warmup, num_training_steps, node.num_cycles, 0.0)))


def cosine_with_min_lr(node: schema.CosineWithMinLR, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup, floor = _warmup_steps(node, num_training_steps), _floor(node, optimizer)
    return Schedule(optimizer, _warmed_up(warmup, _cosine(warmup, num_training_steps, node.num_cycles, floor)))


def cosine_warmup_with_min_lr(
    node: schema.CosineWarmupWithMinLR, *, optimizer: Optimizer, num_training_steps: int
) -> Schedule:
    warmup, start = _warmup_steps(node, num_training_steps), node.warmup_lr_rate
    decay = _cosine(warmup, num_training_steps, node.num_cycles, _floor(node, optimizer))

    def factor(t: int) -> float:
        if t >= warmup:
            return decay(t + 1)  # the peak is at w - 1 and the floor at T - 1, one step earlier than elsewhere
        if start is None:
            return (t + 1) / warmup
        return start + (1.0 - start) * t / max(1, warmup - 1)

    return Schedule(optimizer, factor)


def cosine_with_restarts(node: schema.CosineWithRestarts, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup, cycles = _warmup_steps(node, num_training_steps), float(node.num_cycles)
    span = max(1, num_training_steps - warmup)

    def decay(t: int) -> float:
        progress = (t - warmup) / span
        return 0.0 if progress >= 1.0 else max(0.0, 0.5 * (1.0 + cos(pi * ((cycles * progress) % 1.0))))

    return Schedule(optimizer, _warmed_up(warmup, decay))


def polynomial(node: schema.Polynomial, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup, power, peak, end = (
        _warmup_steps(node, num_training_steps),
        node.power,
        _learning_rate(optimizer),
        node.learning_rate_end,
    )
    if not peak > end:
        raise ValueError(f"scheduler.learning_rate_end={end} is not below optim.learning_rate={peak}")
    span = max(1, num_training_steps - warmup)

    def decay(t: int) -> float:
        if t > num_training_steps:
            return end / peak
        return float((peak - end) * (1 - (t - warmup) / span) ** power + end) / peak

    return Schedule(optimizer, _warmed_up(warmup, decay))


def inverse_sqrt(node: schema.InverseSqrt, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup = _warmup_steps(node, num_training_steps)
    timescale = node.timescale or warmup or 10_000
    shift = timescale - warmup
    return Schedule(optimizer, _warmed_up(warmup, lambda t: 1.0 / sqrt((t + shift) / timescale)))


def warmup_stable_decay(node: schema.WarmupStableDecay, *, optimizer: Optimizer, num_training_steps: int) -> Schedule:
    warmup, decay_steps, floor = _warmup_steps(node, num_training_steps), node.num_decay_steps, node.min_lr_ratio
    if decay_steps is None:
        raise ValueError("scheduler=warmup_stable_decay needs scheduler.num_decay_steps")
    stable = node.num_stable_steps
    if stable is None:
        stable = num_training_steps - warmup - decay_steps
        if stable < 0:
            raise ValueError(
                f"scheduler.num_decay_steps={decay_steps} and {warmup} warmup steps exceed the run's "
                f"{num_training_steps} steps"
            )
    rise, fall = _RISE[node.warmup_type], _fall(node)

    def factor(t: int) -> float:
        if t < warmup:
            return max(0.0, rise(t / warmup) * (1.0 - floor) + floor)
        if t < warmup + stable:
            return 1.0
        if t < warmup + stable + decay_steps:
            return max(0.0, fall((t - warmup - stable) / decay_steps) * (1.0 - floor) + floor)
        return floor

    return Schedule(optimizer, factor)


_RISE: dict[schema.WarmupType, Callable[[float], float]] = {
    schema.WarmupType.linear: lambda p: p,
    schema.WarmupType.cosine: lambda p: 0.5 * (1.0 - cos(pi * p)),
    schema.WarmupType.one_minus_sqrt: lambda p: 1.0 - sqrt(1.0 - p),
}


def _fall(node: schema.WarmupStableDecay) -> Callable[[float], float]:
    if node.decay_type is schema.WarmupType.linear:
        return lambda p: 1.0 - p
    if node.decay_type is schema.WarmupType.one_minus_sqrt:
        return lambda p: 1.0 - sqrt(p)
    return lambda p: 0.5 * (1.0 + cos(pi * float(node.num_cycles) * 2.0 * p))


def reduce_lr_on_plateau(
    node: schema.ReduceLROnPlateau, *, optimizer: Optimizer, mode: Literal["min", "max"]
) -> ReduceLROnPlateau:
    return ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=node.factor,
        patience=node.patience,
        threshold=node.threshold,
        threshold_mode=node.threshold_mode.value,
        cooldown=node.cooldown,
        min_lr=node.min_lr,
        eps=node.eps,
    )


def _warmup_steps(node: schema.Warmup, num_training_steps: int) -> int:
    return node.warmup_steps or ceil(num_training_steps * node.warmup_ratio)


def _warmed_up(warmup: int, after: Factor) -> Factor:
    """Linear warmup from 0 to 1, then ``after``."""
    return lambda t: t / warmup if t < warmup else after(t)


def _cosine(warmup: int, num_training_steps: int, cycles: float, floor: float) -> Factor:
    span, cycles = max(1, num_training_steps - warmup), float(cycles)

    def decay(t: int) -> float:
        wave = 0.5 * (1.0 + cos(pi * cycles * 2.0 * ((t - warmup) / span)))
        return max(0.0, wave * (1 - floor) + floor)

    return decay


def _learning_rate(optimizer: Optimizer) -> float:
    """The peak learning rate, also where another scheduler has already changed the optimizer's."""
    group = optimizer.param_groups[0]
    return float(group.get("initial_lr", group["lr"]))


def _floor(node: schema.CosineWithMinLR | schema.CosineWarmupWithMinLR, optimizer: Optimizer) -> float:
    """min_lr_rate, or min_lr as a share of the learning rate."""
    if (node.min_lr is None) == (node.min_lr_rate is None):
        raise ValueError("set exactly one of scheduler.min_lr and scheduler.min_lr_rate")
    if node.min_lr_rate is not None:
        return node.min_lr_rate
    if not (peak := _learning_rate(optimizer)):
        raise ValueError("scheduler.min_lr needs optim.learning_rate above 0")
    return float(node.min_lr or 0.0) / peak
