"""When to log, evaluate and save."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..schema import Config
from ..state import State


def resolve(steps: int | float, max_steps: int) -> int:
    """An interval in steps; one below 1 is a fraction of the run, rounded up (as HF's logging_steps)."""
    return max(1, math.ceil(max_steps * steps)) if steps < 1 else int(steps)


@dataclass(slots=True)
class Interval:
    """Every ``every`` steps (0: never), and at the end of each epoch if ``epoch``."""

    every: int = 0
    epoch: bool = False
    last: bool = False
    """Also at the last step."""

    def due(self, step: int, *, epoch_end: bool, end: bool) -> bool:
        return (self.every > 0 and step % self.every == 0) or (self.epoch and epoch_end) or (self.last and end)


@dataclass(slots=True)
class Intervals:
    """The intervals of a run."""

    log: Interval
    evaluate: Interval
    save: Interval
    save_best: bool
    """Save after each evaluation that is the best so far."""
    eval_delay: float
    """Steps, or epochs if evaluations are due at epochs' ends, before the first evaluation."""
    log_first: bool
    """Log step 1 too."""

    @classmethod
    def of(cls, config: Config, max_steps: int) -> Intervals:
        """Resolve a config's strategies for a run of ``max_steps``."""
        logging, evaluation, checkpoint = config.logging, config.evaluation, config.checkpoint

        def interval(strategy: str, steps: int | float, *, last: bool) -> Interval:
            if strategy == "steps":
                return Interval(every=resolve(steps, max_steps), last=last)
            return Interval(epoch=strategy == "epoch")

        return cls(
            log=interval(logging.logging_strategy, logging.logging_steps, last=False),
            evaluate=interval(
                evaluation.eval_strategy,
                logging.logging_steps if evaluation.eval_steps is None else evaluation.eval_steps,
                last=True,
            ),
            save=interval(checkpoint.save_strategy, checkpoint.save_steps, last=True),
            save_best=checkpoint.save_strategy == "best",
            eval_delay=evaluation.eval_delay,
            log_first=logging.logging_first_step,
        )

    def due(self, state: State, *, epoch_end: bool) -> tuple[bool, bool, bool]:
        """Whether to log, to evaluate and to save at the end of the state's step."""
        step, end = state.step, state.step >= state.max_steps
        delay_over = self.eval_delay <= (state.epoch if self.evaluate.epoch else step)
        log = self.log.due(step, epoch_end=epoch_end, end=end) or (step == 1 and self.log_first)
        evaluate = self.evaluate.due(step, epoch_end=epoch_end, end=end) and delay_over
        return log, evaluate, self.save.due(step, epoch_end=epoch_end, end=end)
