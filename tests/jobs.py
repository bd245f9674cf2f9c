"""Whole runs of the real runner in forked children: with one or several ranks, killed, resumed; and what they leave."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

# Imported late by torch itself, in 3 s; here once, and not in every child.
import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.tensor  # noqa: F401

from tests import ranks
from tests.devices import own_device
from trainer import distributed
from trainer.callbacks.callback import Callback
from trainer.checkpoint import digest
from trainer.logging.jsonl import read
from trainer.run import directory as run_directory
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation, IntervalStrategy
from trainer.schema.logging import Logging
from trainer.schema.optim import AdamW
from trainer.schema.parallel import DeepSpeed, Single
from trainer.schema.run import Run
from trainer.schema.scheduler import Cosine
from trainer.schema.task import Classification
from trainer.schema.train import Train
from trainer.state import Control, State
from trainer.train import session

STEPS = 14  # 2 epochs of 7 updates of 8 samples, the last of 1
PREEMPTED, STOPPED = 75, 130


def make_config(**sections: Any) -> Config:
    """A run of 14 steps with dropout, random augmentation, accumulation and a schedule, on one process."""
    defaults: dict[str, Any] = {
        "run": Run(output_dir="unused", seed=3, use_cpu=own_device().type == "cpu"),
        "train": Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=2.0),
        "data": Data(
            train_dataset={"_target_": "tests.tiny.Augmented"},
            eval_dataset={"_target_": "tests.tiny.Augmented"},
        ),
        "model": {"_target_": "tests.tiny.Blocks"},
        "task": Classification(),
        "optim": AdamW(learning_rate=1e-2, weight_decay=0.1),
        "scheduler": Cosine(warmup_steps=2),
        "parallel": Single(),
        "evaluation": Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=4),
        "checkpoint": Checkpoint(save_steps=3),
        "logging": Logging(logging_steps=2),
    }
    return Config(**(defaults | sections))


class KillAt(Callback):
    """Sends this process (or one of the ranks) a signal at a step's end; as `callbacks.kill`."""

    def __init__(self, step: int, number: int = signal.SIGKILL, rank: int | None = None) -> None:
        self.step, self.number, self.rank = step, number, rank

    def on_step_end(self, state: State, control: Control) -> None:
        if state.step == self.step and self.rank in (None, distributed.rank()):
            os.kill(os.getpid(), self.number)


def work(config: Config, directory: Path, *, resume: str | None = None) -> None:
    """One rank's whole run; ends the process with the contract's exit code when it was interrupted."""
    config.checkpoint.resume_from_checkpoint = resume
    status = session.run(config, directory).status
    if status != "completed":
        os._exit({"preempted": PREEMPTED, "stopped": STOPPED}[status])


def begin(config: Config, directory: Path) -> None:
    """The run's directory, as the launcher makes it."""
    if not directory.exists():
        run_directory.create(directory, exact=True)
    run_directory.begin(directory, config=config, overrides=[], argv=[])


def start(config: Config, directory: Path, *, resume: str | None = None, failpoints: str = "") -> int:
    """Start a run of one process; its process id."""
    begin(config, directory)
    if isinstance(config.parallel, DeepSpeed):
        ranks.preload()
    return ranks.fork(lambda: work(config, directory, resume=resume), failpoints)


def train(
    config: Config, directory: Path, *, world_size: int = 1, resume: str | None = None, failpoints: str = ""
) -> list[int]:
    """A run to its end; the ranks' exit codes."""
    if world_size == 1:
        return [ranks.wait(start(config, directory, resume=resume, failpoints=failpoints))]
    begin(config, directory)
    if isinstance(config.parallel, DeepSpeed):
        ranks.preload()
    return ranks.exit_codes(lambda: work(config, directory, resume=resume), world_size, failpoints)


def state(directory: Path, step: int = STEPS) -> dict[str, str]:
    """Digests of all that the run had at a step."""
    return digest.items(directory / "checkpoints" / f"checkpoint-{step}")


def logged(directory: Path) -> list[dict[str, str]]:
    """Every record of metrics.jsonl, numbers in hex, without what a clock gave."""
    return [
        {name: float(value).hex() for name, value in record.items() if not name.endswith(("time", "_per_second"))}
        for record in read(directory / "metrics.jsonl")
    ]
