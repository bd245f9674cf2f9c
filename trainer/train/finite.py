"""train.nan_policy: what happens when a loss or a gradient is not finite."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .. import distributed
from ..errors import NotFinite
from ..parallel.engine import StepOutput
from ..schema.train import NanPolicy, Train
from ..state import State
from .checkpointer import Checkpointer
from .meter import Meter

logger = logging.getLogger(__name__)


class FinitePolicy:
    """Raises NotFinite, skips the update, or rolls back to the newest checkpoint; on all ranks alike.

    Where each step is not checked (`abort` on a GPU), the device remembers whether a gradient norm was not finite,
    and is asked at logs, at saves and at the end.
    """

    def __init__(
        self,
        node: Train,
        *,
        fp16: bool,
        synchronous: bool,
        meter: Meter,
        optimizer: Optimizer,
        state: State,
        checkpointer: Checkpointer,
    ) -> None:
        """With ``fp16``, overflowing gradients are left to the gradient scaler, and only a bad loss counts.

        ``synchronous``: reading a number costs nothing, as on a CPU.
        """
        self.policy, self.limit, self.fp16 = node.nan_policy, node.max_nonfinite_steps, fp16
        self.meter, self.optimizer, self.state, self.checkpointer = meter, optimizer, state, checkpointer
        self.skips = self.policy is not NanPolicy.abort
        """Whether a bad update is left out instead of ending the run."""
        self.each_step = self.skips or synchronous
        """Whether each step is checked. On a GPU this synchronises, so `abort` waits for the next log or save."""
        self.in_a_row, self.last_bad = 0, 0
        self._seen = torch.zeros((), dtype=torch.bool, device=meter.total.device)
        """Whether a gradient norm of a step that was not checked was not finite."""

    def check_update(self, out: StepOutput, total_before: Tensor | None) -> None:
        """Apply the policy to an update; ``total_before`` is the meter's sum without it.

        Raises NotFinite with `abort`, and after train.max_nonfinite_steps updates in a row that were not finite.
        """
        step = self.state.step + 1
        bad = self._is_bad(out)
        if not bad and not out.skipped:
            if step > self.last_bad:  # what a rollback repeats is not yet progress
                self.in_a_row = 0
            return
        self.in_a_row, self.last_bad = self.in_a_row + 1, max(step, self.last_bad)
        if bad and not self.skips:
            raise NotFinite(f"{self._describe(out)}: not finite; train.nan_policy=skip or rollback would continue")
        if self.in_a_row >= self.limit:
            raise NotFinite(
                f"{self._describe(out)}: {self.in_a_row} updates in a row were not finite "
                f"(train.max_nonfinite_steps={self.limit}); look at the learning rate, the data and the precision"
            )
        if bad:
            self._leave_out(out, total_before)

    def _is_bad(self, out: StepOutput) -> bool:
        """Whether the policy applies to the update; the same on all ranks."""
        if self.fp16:  # a bad loss gives bad gradients, for which the scaler skips the update
            if not (out.skipped and self.each_step):
                return False
            return bool(distributed.all_or(int(not math.isfinite(self.meter.total))))
        if self.each_step:
            return out.skipped or not math.isfinite(out.grad_norm)
        self._seen |= ~out.grad_norm.isfinite()
        return out.skipped  # DeepSpeed reads the norm in every step, and leaves out a bad update whatever the policy

    def _leave_out(self, out: StepOutput, total_before: Tensor | None) -> None:
        message = self._describe(out)
        assert total_before is not None
        self.meter.total.copy_(total_before)
        self.meter.steps -= 1
        if self.policy is NanPolicy.rollback:
            logger.warning("%s: not finite, rolling back to the newest checkpoint and skipping this batch", message)
            self.checkpointer.rollback()
        else:
            logger.warning("%s: not finite, update skipped", message)
        self.meter.left_out += 1

    def _describe(self, out: StepOutput) -> str:
        norm, total = float(out.grad_norm), float(self.meter.total)
        return f"step {self.state.step + 1}: gradient norm {norm}, sum of losses {total}"

    def check_at_log(self) -> None:
        """Raise NotFinite if a gradient was not finite since the last check (a synchronisation)."""
        if self._seen:
            raise NotFinite(f"step {self.state.step}: a gradient was not finite since the last log or save")

    def check_weights(self, consequence: str) -> None:
        """Raise NotFinite on all ranks rather than write bad weights (a synchronisation, collective)."""
        bad = not math.isfinite(self.meter.total) or bool(self._seen) or not are_finite(self.optimizer)
        if distributed.all_or(int(bad)):
            raise NotFinite(f"step {self.state.step}: a loss, a gradient or a weight is not finite, so {consequence}")


def are_finite(optimizer: Optimizer) -> bool:
    """Whether all that this rank's optimizer updates is finite, read once from the device."""
    extremes: list[Tensor] = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            values = parameter.detach()
            values = values.to_local() if isinstance(values, DTensor) else values
            if values.numel() and values.is_floating_point() and values.element_size() > 1:  # no 8-bit floats
                extremes += values.aminmax()  # nan propagates; isfinite would need memory of the parameter's size
    return not extremes or bool(
        torch.stack([extreme.to(extremes[0].device, torch.float64) for extreme in extremes]).isfinite().all()
    )
