"""The training loss between two logs, which stays on the device until it is needed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import distributed


class Meter:
    """Sums losses without synchronising: one transfer and one collective per ``reduce()``, none per step."""

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros((), device=device)
        self.steps = 0
        self.left_out = 0
        """Updates since the last log that were not finite, and are part of no mean."""
        self.grad_norm: Tensor | None = None
        self.whole = 0.0
        """Sum over all steps up to the last reduce() of the steps' mean losses."""

    def add(self, loss: Tensor, divisor: float | Tensor = 1.0) -> None:
        """Add a micro-batch's loss, which has been divided by ``divisor``.

        One that was divided by infinity counts nothing: a model's own mean over no labels is nan, and its gradient 0.
        """
        loss = loss.detach()
        if isinstance(divisor, Tensor):
            self.total += loss.where(divisor.isfinite(), 0.0)
        elif divisor != math.inf:
            self.total += loss

    def reduce(self) -> float:
        """The mean loss per step since the last call, over all ranks (collective); resets the sum."""
        total = self.total
        if distributed.world_size() > 1:
            total = total.clone()
            distributed.all_reduce_sum(total)
            total /= distributed.world_size()
        value = float(total)
        self.whole += value
        mean = value / max(1, self.steps)
        self.total.zero_()
        self.steps = 0
        return mean

    def state_dict(self) -> dict[str, float | int]:
        """This rank's sums; floats are exact in JSON."""
        numbers = {"total": float(self.total), "steps": self.steps, "whole": self.whole}
        return numbers | ({"left_out": self.left_out} if self.left_out else {})

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.total.fill_(float(state["total"]))
        self.steps, self.whole = int(state["steps"]), float(state["whole"])
        self.left_out = int(state.get("left_out", 0))


class MeanOverRanks:
    """A meter's state as every rank's mean, from which a run with another number of ranks resumes."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def state_dict(self) -> dict[str, float | int]:
        """The meter's state, with the mean of the ranks' sums (collective)."""
        total = self.meter.total.double()
        distributed.all_reduce_sum(total)
        mean = (total / distributed.world_size()).to(self.meter.total.dtype)  # what a load and a save give back
        return self.meter.state_dict() | {"total": float(mean)}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.meter.load_state_dict(state)
