"""The training loop. It knows no backend and no service: engines, reporters and files stand behind its parts."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .. import distributed
from ..checkpoint.best import Best
from ..data.batches import MicroBatch
from ..data.train_data import TrainData
from ..errors import NotFinite
from ..events import Events
from ..parallel.engine import Engine, StepOutput
from ..schema.train import NanPolicy
from ..state import Control, State
from ..task.task import Task
from .interrupts import Interrupts
from .intervals import Intervals
from .meter import Meter
from .tokens import TokenCounter

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Loop:
    """The parts of a run, and the loop that drives them."""

    engine: Engine
    model: nn.Module
    task: Task
    optimizer: Optimizer
    scheduler: Any
    data: TrainData
    state: State
    control: Control
    events: Events
    meter: Meter
    intervals: Intervals
    interrupts: Interrupts
    nan_policy: NanPolicy
    fp16: bool
    """Overflows are the gradient scaler's business then; only a bad loss counts as not finite."""
    token_weights: bool
    """Weigh micro-batches by the task's item counts (tokens); else by samples."""
    average_tokens: bool = True
    """Those counts are of all ranks; else of this one."""
    tokens: TokenCounter | None = None
    nan_inf_filter: bool = True
    save_on_signal: bool = True
    started: float = 0.0
    """When this process began to train."""
    best: Best
    evaluate: Callable[[], dict[str, float]]
    save: Callable[[], None]
    rollback: Callable[[], None]
    log: Callable[[dict[str, Any]], None]

    def run(self) -> str:
        """Train to the last step, or until a callback or a signal stops it: `completed`, `preempted` or `stopped`."""
        state, control, events = self.state, self.control, self.events
        events.on_train_begin(state, control)
        self.model.train()
        while state.step < state.max_steps and not control.should_training_stop:
            events.on_epoch_begin(state, control)
            for micro_batches, epoch_end in self.data.steps():
                events.on_step_begin(state, control)
                rate = float(self.optimizer.param_groups[0]["lr"])  # a tensor changes in place
                out = self.step(micro_batches)
                state.step += 1
                epoch_end |= state.step >= state.max_steps  # a run that ends within an epoch ends it
                state.epoch = self.data.progress
                events.on_step_end(state, control)
                if epoch_end:  # before the checkpoint of this step: a resume goes on in the next epoch
                    events.on_epoch_end(state, control)
                self.after_step(out, rate, epoch_end)
                if control.should_training_stop or state.step >= state.max_steps:
                    break
        events.on_train_end(state, control)
        done = state.step >= state.max_steps  # a signal in the last step interrupts nothing
        return "completed" if done or self.interrupts.status is None else self.interrupts.status

    def step(self, micro_batches: list[MicroBatch]) -> StepOutput:
        """One optimizer update: accumulate, backpropagate, clip, update."""
        engine, meter, last = self.engine, self.meter, len(micro_batches) - 1
        if self.tokens is not None:
            self.tokens.add(micro_batches, ranks=engine.ranks_per_batch)
        if self.token_weights:
            micro_batches = self.weigh_by_items(micro_batches)
        guard = self.nan_policy is not NanPolicy.abort
        before = meter.total.clone() if guard else None
        for i, (batch, divisor) in enumerate(micro_batches):
            with engine.accumulate(last=i == last):
                loss = self.task.loss(self.model, batch)
                if divisor != 1.0:
                    loss = loss / divisor
                engine.backward(loss)
            if divisor != math.inf:  # a model's own mean over no labels is nan, and its gradient 0
                meter.add(loss)
        meter.steps += 1
        out = engine.step(skip_nonfinite=guard)
        meter.grad_norm = out.grad_norm
        # a synchronisation per step is free on a CPU; on a GPU only `skip` and `rollback` pay for it
        if (guard or self.engine.device.type == "cpu") and self.is_bad(out):
            self.on_bad_step(out, before)
        if not out.skipped and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        return out

    def weigh_by_items(self, micro_batches: list[MicroBatch]) -> list[MicroBatch]:
        """Divisors by which every item (token) of the update counts the same, over all ranks or over this one's."""
        world = distributed.world_size()
        if world == 1 and len(micro_batches) == 1:
            return micro_batches
        items = [self.task.num_items(batch) for batch, _ in micro_batches]
        counts = [int(n or 0) * math.isfinite(divisor) for n, (_, divisor) in zip(items, micro_batches, strict=True)]
        if not self.average_tokens:
            total, world = sum(counts), 1
        else:
            total = distributed.all_sum(sum(counts))
        return [
            (batch, total / (count * world) if count else math.inf)
            for (batch, _), count in zip(micro_batches, counts, strict=True)
        ]

    def is_bad(self, out: StepOutput) -> bool:
        """Whether the step's numbers are not finite, beyond what fp16's scaler deals with itself."""
        return not math.isfinite(self.meter.total if self.fp16 else out.grad_norm)

    def on_bad_step(self, out: StepOutput, before: Tensor | None) -> None:
        step = self.state.step + 1
        message = f"step {step}: gradient norm {float(out.grad_norm)}, sum of losses {float(self.meter.total)}"
        if before is None:
            raise NotFinite(f"{message}: not finite; train.nan_policy=skip or rollback would go on")
        self.meter.total.copy_(before)
        self.meter.steps -= 1
        if self.nan_policy is NanPolicy.rollback:
            logger.warning("%s: not finite, going back to the newest checkpoint and on after this batch", message)
            self.rollback()
        else:
            logger.warning("%s: not finite, update skipped", message)
        self.meter.left_out += 1

    def after_step(self, out: StepOutput, rate: float, epoch_end: bool) -> None:
        """Log, evaluate, save and stop, where it is due or was asked for; the ranks agree on it."""
        state, control, intervals, step = self.state, self.control, self.intervals, self.state.step
        end = step >= state.max_steps
        log = intervals.log.due(step, epoch_end=epoch_end, end=end) or (step == 1 and intervals.log_first)
        evaluate = intervals.evaluate.due(step, epoch_end=epoch_end, end=end) and intervals.eval_delay <= (
            state.epoch if intervals.evaluate.epoch else step
        )
        save = intervals.save.due(step, epoch_end=epoch_end, end=end)
        interrupted = self.agree()
        if log or control.should_log:
            control.should_log = False
            self.log_training(rate)
        if evaluate or control.should_evaluate:
            control.should_evaluate = False
            save |= self.evaluate_and_compare() and intervals.save_best
            interrupted |= self.agree()
        on_signal = interrupted and (self.save_on_signal or self.interrupts.status == "stopped")
        if save or control.should_save or on_signal:
            control.should_save = False
            if not math.isfinite(self.meter.total):
                raise NotFinite(f"step {step}: the loss is not finite; no checkpoint is made of it")
            if self.tokens is not None:
                state.num_input_tokens_seen = self.tokens.total()
            self.save()
            self.agree()

    def agree(self) -> bool:
        """The union of all ranks' wishes becomes every rank's; True when a signal asks to save and stop."""
        control, interrupts = self.control, self.interrupts
        if distributed.world_size() > 1:
            wishes = (
                control.should_training_stop
                | control.should_log << 1
                | control.should_evaluate << 2
                | control.should_save << 3
                | (interrupts.status == "preempted") << 4
                | (interrupts.status == "stopped") << 5
            )
            wishes = distributed.all_or(wishes)
            control.should_training_stop = bool(wishes & 1)
            control.should_log = bool(wishes & 2)
            control.should_evaluate = bool(wishes & 4)
            control.should_save = bool(wishes & 8)
            if wishes & 48:
                interrupts.status = "preempted" if wishes & 16 else "stopped"
        if interrupts.status is None or self.state.step >= self.state.max_steps:
            return False
        control.should_training_stop = True
        return True

    def log_training(self, rate: float) -> None:
        """One record: the mean loss since the last one, the last step's gradient norm and learning rate."""
        steps, loss, norm = self.meter.steps, self.meter.reduce(), self.meter.grad_norm
        record = {"loss": loss, "grad_norm": None if norm is None else float(norm), "learning_rate": rate}
        if left_out := self.meter.left_out:
            record["nan_inf_count"], self.meter.left_out = left_out, 0
            if not (self.nan_inf_filter and steps):  # without a step there is nothing to take a mean of
                record["loss"] = math.nan
        record |= self.token_metrics()
        self.log(record)
        self.events.on_log(self.state, self.control, record)
        if not math.isfinite(loss):
            raise NotFinite(f"step {self.state.step}: the mean loss since the last log is {loss}")

    def token_metrics(self) -> dict[str, float]:
        """What a record says about tokens (collective where they are counted)."""
        if self.tokens is None:
            return {}
        seen = self.state.num_input_tokens_seen = self.tokens.total()
        rate = (seen - self.tokens.resumed) / (time.perf_counter() - self.started)
        total = {"num_input_tokens_seen": seen} if self.tokens.reports_total else {}
        return total | {"train_tokens_per_second": rate}

    def evaluate_and_compare(self) -> bool:
        """Evaluate, log, tell the callbacks; True when the metric is the best so far."""
        metrics = self.evaluate()
        self.log(metrics)
        # callbacks compare with the previous best, as Hugging Face's early stopping does
        self.events.on_evaluate(self.state, self.control, metrics)
        better = self.best.update(self.state, metrics)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(self.best.value(metrics))
        return better
