"""GreedyLR, after transformers.optimization.GreedyLR (https://arxiv.org/abs/2512.14527)."""

from __future__ import annotations

import math
from typing import Any, Literal, SupportsFloat

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..schema import scheduler as schema
from .schedule import as_number, set_rate

_COUNTERS = ("best", "bad", "good", "cooldown_counter", "warmup_counter", "decreases_left", "window", "last_epoch")


class GreedyLR(ReduceLROnPlateau):
    """Stepped with a metric after each evaluation, as its base class is, whose code it does not use."""

    def __init__(self, node: schema.Greedy, optimizer: Optimizer, mode: Literal["min", "max"]) -> None:
        self.optimizer = optimizer
        self.node = node
        self.mode = mode
        self.initial: list[float] = [group.setdefault("initial_lr", as_number(group["lr"])) for group in self._groups]
        self.last_epoch = 0
        self._clear()

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def _clear(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.bad = self.good = self.cooldown_counter = self.warmup_counter = 0
        self.decreases_left = self.node.reset_start
        self.window: list[float] = []

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take an evaluation's metric; change the learning rate when enough of them agree."""
        node, value = self.node, float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if node.smooth:
            self.window = [*self.window, value][-node.window_size :]
            value = sum(self.window) / len(self.window)
        if self.cooldown_counter > 0 or self.warmup_counter > 0:
            name = "cooldown_counter" if self.cooldown_counter > 0 else "warmup_counter"
            setattr(self, name, getattr(self, name) - 1)
            self.bad = self.good = 0
            return
        if self._better(value):
            self.best, self.bad, self.good = value, 0, self.good + 1
        else:
            self.bad, self.good = self.bad + 1, 0
        if self.good > node.patience:
            self._change(grow=True)
            self.decreases_left = node.reset_start
            self.warmup_counter, self.good = node.warmup, 0
        elif self.bad > node.patience:
            self._change(grow=False)
            self.cooldown_counter, self.bad = node.cooldown, 0
            if all(as_number(group["lr"]) <= node.min_lr for group in self._groups):
                self.decreases_left -= 1
                if self.decreases_left <= 0:
                    self._restart()

    def _better(self, value: float) -> bool:
        node, sign = self.node, 1.0 if self.mode == "min" else -1.0
        if node.threshold_mode is schema.ThresholdMode.rel:
            return sign * value < sign * (self.best * (1.0 - sign * node.threshold))
        return sign * value < sign * (self.best - sign * node.threshold)

    def _change(self, *, grow: bool) -> None:
        node = self.node
        for group in self._groups:
            old = as_number(group["lr"])
            new = min(old / node.factor, node.max_lr) if grow else max(old * node.factor, node.min_lr)
            if (new - old if grow else old - new) > node.eps:
                set_rate(group, new)

    def _restart(self) -> None:
        cooldown = self.node.cooldown
        for group, rate in zip(self._groups, self.initial, strict=True):
            set_rate(group, rate)
        self._clear()
        self.cooldown_counter = cooldown  # as transformers: its step sets it after the reset

    def get_last_lr(self) -> list[Any]:
        return [as_number(group["lr"]) for group in self._groups]

    def state_dict(self) -> dict[str, Any]:
        rates = {"rates": self.get_last_lr(), "initial": self.initial}
        return {name: getattr(self, name) for name in _COUNTERS} | rates

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in (*_COUNTERS, "initial"):
            setattr(self, name, state_dict[name])
        for group, rate in zip(self._groups, state_dict["rates"], strict=True):
            set_rate(group, rate)


def greedy(node: schema.Greedy, *, optimizer: Optimizer, mode: Literal["min", "max"]) -> GreedyLR:
    return GreedyLR(node, optimizer, mode)
