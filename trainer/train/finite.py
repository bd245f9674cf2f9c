"""train.nan_policy: what happens when a loss or a gradient is not finite."""

from __future__ import annotations

import logging
import math

from torch import Tensor

from ..errors import NotFinite
from ..parallel.engine import StepOutput
from ..schema.train import NanPolicy
from ..state import State
from .checkpointer import Checkpointer
from .meter import Meter

logger = logging.getLogger(__name__)


class FinitePolicy:
    """Raises NotFinite, skips the update, or rolls back to the newest checkpoint."""

    def __init__(
        self,
        policy: NanPolicy,
        *,
        fp16: bool,
        synchronous: bool,
        meter: Meter,
        state: State,
        checkpointer: Checkpointer,
    ) -> None:
        """With ``fp16``, overflowing gradients are left to the gradient scaler, and only a bad loss counts.

        ``synchronous``: reading a number costs nothing, as on a CPU.
        """
        self.policy, self.fp16 = policy, fp16
        self.meter, self.state, self.checkpointer = meter, state, checkpointer
        self.skips = policy is not NanPolicy.abort
        """Whether a bad update is left out instead of ending the run."""
        self.each_step = self.skips or synchronous
        """Whether each step is checked. On a GPU this synchronises, so `abort` waits for the next log."""

    def is_bad(self, out: StepOutput) -> bool:
        """Whether the step's numbers are not finite (a synchronisation)."""
        return not math.isfinite(self.meter.total if self.fp16 else out.grad_norm)

    def handle(self, out: StepOutput, total_before: Tensor | None) -> None:
        """Apply the policy to a bad step; ``total_before`` is the meter's sum without it."""
        step = self.state.step + 1
        message = f"step {step}: gradient norm {float(out.grad_norm)}, sum of losses {float(self.meter.total)}"
        if total_before is None:
            raise NotFinite(f"{message}: not finite; train.nan_policy=skip or rollback would continue")
        self.meter.total.copy_(total_before)
        self.meter.steps -= 1
        if self.policy is NanPolicy.rollback:
            logger.warning("%s: not finite, rolling back to the newest checkpoint and skipping this batch", message)
            self.checkpointer.rollback()
        else:
            logger.warning("%s: not finite, update skipped", message)
        self.meter.left_out += 1

    def check_before_save(self) -> None:
        """Raise NotFinite rather than save a bad state (a synchronisation)."""
        if not math.isfinite(self.meter.total):
            raise NotFinite(f"step {self.state.step}: the loss is not finite, so no checkpoint is saved")
