"""One run on one rank: builds its parts, drives the loop, and writes what the run's directory must have at the end."""

from __future__ import annotations

import copy
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from .. import distributed
from ..callbacks.callback import TrainingParts
from ..checkpoint import store
from ..checkpoint.background import Background
from ..checkpoint.best import Best
from ..data.fingerprint import fingerprint
from ..distributed.device import device_name, repeat_exactly, this_device
from ..errors import describe
from ..logging.jsonl import MetricsFile
from ..memory import measured
from ..optim import averages
from ..rng import Generators, seed_everything
from ..run import directory as run_directory
from ..scheduler import make_scheduler
from ..schema import Config
from ..secrets import mask
from ..state import Control, RunInfo, State
from ..task import Task
from . import batch_size, parts
from .agreement import Agreement
from .checkpointer import Checkpointer
from .evaluations import Evaluations
from .finite import FinitePolicy
from .interrupts import Interrupts
from .intervals import Intervals
from .loop import Loop
from .meter import MeanOverRanks, Meter
from .objects import Objects
from .records import Records
from .restoration import restored_settings
from .resumption import resume


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended on this rank."""

    status: str
    """`completed`, `preempted` or `stopped`."""
    model: nn.Module
    """The model that was trained, without what an engine wraps around it."""


def run(config: Config, directory: Path, objects: Objects | None = None) -> Ended:
    """Train on this rank, with the ``objects`` that are given in place of those that the config would build.

    Collective: every rank of the process group calls it with the same config and directory. The last checkpoint is
    written before a `preempted` or `stopped` run returns. Whatever goes wrong is raised.
    """
    given = objects or Objects()
    model = given.model if config.train.auto_find_batch_size else None
    initial = {} if model is None else copy.deepcopy(model.state_dict())

    def attempt(size: int) -> Ended:
        if model is not None:
            model.load_state_dict(initial)
        return _attempt(config, directory, given, interrupts, size)

    with Interrupts() as interrupts:
        return batch_size.find(config, directory, attempt)


def _attempt(config: Config, directory: Path, objects: Objects, interrupts: Interrupts, size: int) -> Ended:
    memory: dict[str, Any] = {}
    with measured("init", this_device(use_cpu=config.run.use_cpu), memory, skip=config.logging.skip_memory_metrics):
        session = Session(config, directory, interrupts, objects=objects, batch_size=size)
    session.memory = memory
    status = "failed"
    try:
        status = session.train()
    except BaseException as error:
        may_shrink = config.train.auto_find_batch_size and not session.records.first_step
        if may_shrink and batch_size.does_not_fit(error, size):
            status = "stopped"
            session.forget()
            raise batch_size.DoesNotFit(describe(error)) from None
        session.events.on_exception(session.state, session.control, error)
        if not isinstance(error, KeyboardInterrupt) or interrupts.status is None:
            raise
        status = interrupts.status
        if not interrupts.at_once:
            raise
    finally:
        interrupts.at_once = False  # the run is over: a signal no longer interrupts it
        session.close(status)
    return Ended(status, session.trainee.module)


class Session:
    """The parts of one run on one rank.

    Everything that it opens is closed by ``close``, or by the constructor if a later part cannot be built.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        interrupts: Interrupts,
        *,
        objects: Objects | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.config, self.directory, self.interrupts = config, directory, interrupts
        self.batch_size = batch_size or config.train.per_device_train_batch_size
        self.memory: dict[str, Any] = {}
        self.state, self.control = State(), Control()
        with ExitStack() as stack:
            self._build(objects or Objects(), stack)
            self._open = stack.pop_all()

    def _build(self, objects: Objects, stack: ExitStack) -> None:
        config, seed = self.config, self.config.run.seed
        self.metrics = MetricsFile(self.directory / "metrics.jsonl") if distributed.is_main() else None
        if self.metrics:
            stack.callback(self.metrics.close)
        stack.enter_context(restored_settings())
        if config.run.full_determinism:
            repeat_exactly()
        seed_everything(seed)
        sources = parts.build_sources(config, objects)
        self.trainee = parts.build_trainee(config, objects, this_device(use_cpu=config.run.use_cpu), stack)
        engine, optimizer = self.trainee.engine, self.trainee.optimizer
        if config.train.auto_find_batch_size:
            distributed.keep_store()
        self.data, self.evaluator = parts.build_data(config, objects, sources, self.trainee, self.batch_size)
        self.fingerprint = fingerprint(sources.train_dataset, run_directory.plain(config)["data"]["train_dataset"])
        self._count_steps()
        self.best = Best.of(config.checkpoint, several=any(parts.eval_names(config, objects)))
        mode: Literal["min", "max"] = "max" if self.best.greater_is_better else "min"
        self.scheduler = make_scheduler(config.scheduler, optimizer, max(1, self.state.max_steps), mode=mode)
        averages.train_weights(optimizer)
        # rank 0 continues from the state in which one process would be; the others differ, so that dropout does
        seed_everything(seed + distributed.rank() // engine.tensor_parallel_size)
        self.events, self.hub = parts.build_events(config, objects, self.directory, self.trainee, self.best, stack)
        self._build_loop(sources.task, stack)

    def _count_steps(self) -> None:
        train, state, per_epoch = self.config.train, self.state, self.data.steps_per_epoch
        if self.config.run.do_train:
            state.max_steps = self.data.max_steps(train.max_steps, train.num_train_epochs)
        state.num_train_epochs = state.max_steps / per_epoch if per_epoch else train.num_train_epochs

    @property
    def _shared(self) -> dict[str, Any]:
        """What every part of the loop reads and writes."""
        return {"state": self.state, "control": self.control, "events": self.events}

    def _build_records(self, meter: Meter) -> None:
        """What is written down: records, and the evaluations that make some of them."""
        config, trainee = self.config, self.trainee
        self.records = Records(
            self.metrics,
            meter=meter,
            tokens=trainee.tokens,
            nan_inf_filter=config.logging.logging_nan_inf_filter,
            **self._shared,
        )
        self.evaluations = Evaluations(
            config,
            self.evaluator,
            optimizer=trainee.optimizer,
            scheduler=self.scheduler,
            records=self.records,
            best=self.best,
            **self._shared,
        )

    def _build_checkpointer(self, meter: Meter, stack: ExitStack) -> None:
        config, trainee = self.config, self.trainee
        background: Background[Path] | None = Background() if config.checkpoint.async_save else None
        if background:
            stack.callback(background.close)
        self.checkpointer = Checkpointer(
            node=config.checkpoint,
            directory=self.directory,
            engine=trainee.engine,
            model=trainee.model,
            optimizer=trainee.optimizer,
            parts={
                "scheduler": self.scheduler,
                "data": self.data,
                "callbacks": self.events,
                "meter": MeanOverRanks(meter),
            },
            rank_parts={"rng": Generators(), "meter": meter},
            tokens=trainee.tokens,
            metrics=self.metrics,
            config=config,
            fingerprint=self.fingerprint,
            background=background,
            **self._shared,
        )

    def _build_loop(self, task: Task, stack: ExitStack) -> None:
        config, trainee, engine = self.config, self.trainee, self.trainee.engine
        meter = Meter(engine.device)
        self._build_records(meter)
        self._build_checkpointer(meter, stack)
        finite = FinitePolicy(
            config.train,
            fp16=config.precision.fp16,
            synchronous=engine.device.type == "cpu",
            meter=meter,
            optimizer=trainee.optimizer,
            state=self.state,
            checkpointer=self.checkpointer,
        )
        self.loop = Loop(
            engine=engine,
            model=trainee.model,
            task=task,
            optimizer=trainee.optimizer,
            scheduler=self.scheduler,
            data=self.data,
            meter=meter,
            tokens=trainee.tokens,
            records=self.records,
            evaluations=self.evaluations,
            checkpointer=self.checkpointer,
            finite=finite,
            agreement=Agreement(self.control, self.interrupts, self.state),
            intervals=Intervals.of(config, self.state.max_steps),
            interrupts=self.interrupts,
            weigh_items=type(task).num_items is not Task.num_items and getattr(task, "counts_items", True),
            average_tokens=config.train.average_tokens_across_devices,
            save_on_signal=config.checkpoint.enable_jit_checkpoint,
            **self._shared,
        )

    def train(self) -> str:
        """Resume if asked to, run the loop, export the weights, evaluate and predict as asked; the run's status."""
        config, state, trainee = self.config, self.state, self.trainee
        self.events.setup(
            TrainingParts(
                model=trainee.module,
                optimizer=trainee.optimizer,
                scheduler=self.scheduler,
                task=self.loop.task,
                data=self.data,
                engine=trainee.engine,
            )
        )
        store.clean(self.checkpointer.root)
        resume(config, self.checkpointer, self.data)
        self.records.start()
        if distributed.is_main():
            self._introduce()
        if not config.run.do_train:
            self._infer()
            return "completed"
        if config.evaluation.eval_on_start and state.step == 0:
            self.evaluations.report()
        self.records.start()
        with measured("train", trainee.engine.device, self.memory, skip=config.logging.skip_memory_metrics):
            status = self.loop.run()
        self.checkpointer.finish()
        if status == "completed":
            self.loop.finite.check_weights("model/ is not written")
            samples = self.data.samples(state.step) - self.data.samples(self.records.first_step)
            self.records.write_summary(samples, self.memory)
            if self.checkpointer.export():
                self.evaluations.evaluated_step = None
            if self.hub:
                self.hub.end(state)
            self._infer()
        return status

    def _introduce(self) -> None:
        """Note in the manifest where the run trains, and start the reporters."""
        config, world = self.config, distributed.world_size()
        manifest = run_directory.read(self.directory)
        devices = [device_name(self.trainee.engine.device)] * world
        run_directory.update(self.directory, devices=devices, world_size=world)
        if config.train.auto_find_batch_size:
            run_directory.update(self.directory, train_batch_size=self.batch_size)
        self.events.start(
            RunInfo(
                directory=self.directory,
                run_id=manifest["run_id"],
                run_name=config.run.run_name or "-".join(self.directory.parts[-2:]),
                project=config.run.project,
                config=mask(run_directory.plain(config)),
                resumed_step=self.state.step,
            ),
            self.state,
        )

    def _infer(self) -> None:
        """Do what run.do_eval and run.do_predict ask for, with the final weights."""
        self.interrupts.at_once = True
        if self.config.run.do_eval and self.evaluations.evaluated_step != self.state.step:
            self.evaluations.report()
        if self.config.run.do_predict:
            self.evaluations.predict(self.directory)

    def forget(self) -> None:
        """Delete what the run has written, because it starts again with another batch size."""
        if distributed.is_main():
            shutil.rmtree(self.checkpointer.root, ignore_errors=True)
            assert self.metrics is not None
            self.metrics.truncate(0)

    def close(self, status: str) -> None:
        """Note the last and best metrics in the manifest, finish the reporters, and close what was opened."""
        with self._open:
            if distributed.is_main():
                self._note_result()
            self.events.finish(status)

    def _note_result(self) -> None:
        state = self.state
        last = self.records.latest
        if not self.config.run.do_train:  # beside the metrics of the training
            last = run_directory.read(self.directory).get("result", {}).get("last", {}) | last
        best = {"metric": self.best.metric, "value": state.best_metric, "step": state.best_step}
        result = {"step": state.step, "last": last, "best": best if state.best_step else None}
        run_directory.update(self.directory, result=result)
