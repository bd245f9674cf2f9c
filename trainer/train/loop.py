"""The training loop. It knows no backend and no service: engines, reporters and files are behind its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..data.batches import MicroBatch
from ..data.train_data import TrainData
from ..events import Events
from ..parallel.engine import Engine, StepOutput
from ..state import Control, State
from ..task.task import Task
from .agreement import Agreement
from .checkpointer import Checkpointer
from .evaluations import Evaluations
from .finite import FinitePolicy
from .interrupts import Interrupts
from .intervals import Intervals
from .meter import Meter
from .records import Records
from .tokens import TokenCounter
from .weights import WeightedBatch, weigh_by_items


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
    tokens: TokenCounter | None
    records: Records
    evaluations: Evaluations
    checkpointer: Checkpointer
    finite: FinitePolicy
    agreement: Agreement
    intervals: Intervals
    interrupts: Interrupts
    weigh_items: bool
    """Weigh micro-batches by the task's item counts (labels, tokens) instead of by samples."""
    average_tokens: bool
    """Count those items over all ranks; else over this one."""
    save_on_signal: bool

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
                self.step(micro_batches)
                state.step += 1
                epoch_end |= state.step >= state.max_steps  # a run that ends within an epoch ends it
                state.epoch = self.data.progress
                events.on_step_end(state, control)
                if epoch_end:  # before the checkpoint of this step: a resume continues in the next epoch
                    events.on_epoch_end(state, control)
                self.after_step(rate, epoch_end)
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
        weighted: list[WeightedBatch] = list(micro_batches)
        if self.weigh_items:
            weighted = weigh_by_items(self.task, micro_batches, engine.device, average_tokens=self.average_tokens)
        skips = self.finite.skips
        total_before = meter.total.clone() if skips else None
        for i, (batch, divisor) in enumerate(weighted):
            with engine.accumulate(last=i == last):
                loss = self.task.loss(self.model, batch)
                if isinstance(divisor, Tensor):
                    loss = loss / divisor.to(loss)
                elif divisor != 1.0:
                    loss = loss / divisor
                engine.backward(loss)
            meter.add(loss, divisor)
        meter.steps += 1
        out = engine.step(skip_nonfinite=skips)
        meter.grad_norm = out.grad_norm
        self.finite.check_update(out, total_before)
        if not out.skipped and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        return out

    def after_step(self, rate: float, epoch_end: bool) -> None:
        """Log, evaluate, save and stop where it is due or was asked for; the ranks agree on it."""
        state, control = self.state, self.control
        log, evaluate, save = self.intervals.due(state, epoch_end=epoch_end)
        interrupted = self.agreement.reach()
        if log or control.should_log:
            control.should_log = False
            self.records.write_training(rate)
            self.finite.check_at_log()
        if evaluate or control.should_evaluate:
            control.should_evaluate = False
            save |= self.evaluations.compare() and self.intervals.save_best
            interrupted |= self.agreement.reach()
        save |= interrupted and (self.save_on_signal or self.interrupts.status == "stopped")
        if save or control.should_save:
            control.should_save = False
            self.finite.check_weights("no checkpoint is saved")
            self.checkpointer.save()
            self.agreement.reach()
