"""When to log, evaluate and save."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..schema import Config


def resolve(steps: int | float, max_steps: int) -> int:
    """An interval in steps; below 1 it is a share of the run, rounded up (HF: logging_steps and its like)."""
    return max(1, math.ceil(max_steps * steps)) if steps < 1 else int(steps)


@dataclass(slots=True)
class Interval:
    """`every` so many steps (0: never), and at each epoch's end if `epoch`."""

    every: int = 0
    epoch: bool = False
    last: bool = False
    """Also at the last step."""

    def due(self, step: int, *, epoch_end: bool, end: bool) -> bool:
        return (self.every > 0 and step % self.every == 0) or (self.epoch and epoch_end) or (self.last and end)


@dataclass(slots=True)
class Intervals:
    log: Interval
    evaluate: Interval
    save: Interval
    save_best: bool
    eval_delay: float
    log_first: bool
    """Log step 1 too."""

    @classmethod
    def of(cls, config: Config, max_steps: int) -> Intervals:
        """Resolve the strategies of a config for a run of so many steps."""
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
