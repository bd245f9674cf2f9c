"""Builds the parts of a run on one rank, hands them to the loop, and leaves in its directory what was promised."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from .. import distributed
from ..build.build import build
from ..callbacks.callback import Callback
from ..callbacks.debug import watchers
from ..callbacks.empty_cache import EmptyCache
from ..checkpoint import store
from ..checkpoint.best import Best
from ..compile import speed_up
from ..data.batches import BatchLayout
from ..data.collate import make_collate
from ..data.eval_data import EvalData
from ..data.train_data import TrainData
from ..distributed.device import device_name, repeat_exactly, this_device
from ..errors import describe
from ..evaluation.evaluator import Evaluator
from ..evaluation.metrics import load_compute_metrics
from ..events import Events
from ..hub import Hub
from ..logging.jsonl import MetricsFile
from ..logging.reporter import Reporter, build_reporters
from ..memory import measured, save_memory
from ..optim import averages, make_optimizer
from ..parallel.engine import Engine
from ..rng import seed_everything
from ..run import directory as run_directory
from ..run.secrets import mask
from ..scheduler import make_scheduler
from ..schema import Config
from ..schema.callbacks import EarlyStopping
from ..schema.data import named_sets
from ..state import Control, RunInfo, State
from ..task import Task, make_task
from . import batch_size
from .checkpointer import Keeping
from .interrupts import Interrupts
from .intervals import Intervals
from .loop import Loop
from .meter import Meter
from .neftune import add_noise
from .objects import Objects
from .tokens import TokenCounter

logger = logging.getLogger(__name__)


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
    with Interrupts() as interrupts:
        return batch_size.find(config, directory, lambda size: _attempt(config, directory, given, interrupts, size))


def _attempt(config: Config, directory: Path, objects: Objects, interrupts: Interrupts, size: int) -> Ended:
    memory: dict[str, Any] = {}
    with measured("init", this_device(use_cpu=config.run.use_cpu), memory, skip=config.logging.skip_memory_metrics):
        session = Session(config, directory, interrupts, objects=objects, batch_size=size)
    session.memory = memory
    status = "failed"
    try:
        status = session.train()
    except BaseException as error:
        if config.train.auto_find_batch_size and not session.first_step and batch_size.does_not_fit(error, size):
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
        interrupts.at_once = False  # what is done is done: a signal while closing interrupts nothing
        session.close(status)
    return Ended(status, session.built)


class Session:
    """One run on one rank: its parts, and what the loop calls back for."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        interrupts: Interrupts,
        *,
        objects: Objects | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.config, self.directory = config, directory
        self.objects = given = objects or Objects()
        self.batch_size = batch_size or config.train.per_device_train_batch_size
        self.memory: dict[str, Any] = {}
        self.state, self.control = State(), Control()
        sets = _named(config, given)
        self.best = Best.of(config.checkpoint, several=bool(sets.keys() - {""}))
        self.metrics = MetricsFile(directory / "metrics.jsonl") if distributed.is_main() else None
        self.events = Events({}, {})
        self.latest: dict[str, Any] = {}
        self.evaluated: int | None = None
        """Step whose evaluation was of the weights that are there now."""
        self.started = time.perf_counter()
        self.first_step = 0

        train = config.train
        seed, device = config.run.seed, this_device(use_cpu=config.run.use_cpu)
        if config.run.full_determinism:
            repeat_exactly()
        seed_everything(seed)
        train_dataset = given.train_dataset
        if train_dataset is None and config.run.do_train:
            train_dataset = build(config.data.train_dataset)
        task = given.task or make_task(
            config.task, label_names=config.data.label_names, label_smoothing=train.label_smoothing_factor
        )

        self.engine: Engine = build(config.parallel, precision=config.precision, device=device)
        seed_everything(seed)  # the weights depend on the seed alone, not on what the datasets drew
        with self.engine.model_context():
            model: nn.Module = build(config.model) if given.model is None else given.model
        self.built = model
        if distributed.is_main():
            logger.info("%s: %s parameters, %s", type(model).__name__, f"{count(model):,}", device_name(device))
        collate = given.collate_fn or make_collate(config.data, task, model)
        tokens = TokenCounter.of(model, config.logging, device)
        self.own_callbacks = watchers(config.run.debug, model)
        if config.memory.torch_empty_cache_steps is not None:
            self.own_callbacks["memory.torch_empty_cache_steps"] = EmptyCache(config.memory.torch_empty_cache_steps)
        add_noise(model, train.neftune_noise_alpha)
        save_memory(model, config.memory, device)
        speed_up(model, config.compile)
        model, optimizer = self.engine.setup(
            model, lambda module: make_optimizer(config.optim, module), max_grad_norm=train.max_grad_norm
        )
        if train.auto_find_batch_size:
            distributed.keep_store()

        together = self.engine.ranks_per_batch
        world, rank = distributed.world_size() // together, distributed.rank() // together
        layout = BatchLayout(self.batch_size, train.gradient_accumulation_steps, world, rank)
        data_seed = seed if config.data.data_seed is None else config.data.data_seed
        self.data = TrainData(
            train_dataset, layout, config.data, collate=collate, seed=data_seed, device=self.engine.device
        )
        eval_layout = BatchLayout(config.evaluation.per_device_eval_batch_size, 1, world, rank)
        make_data = partial(
            EvalData,
            layout=eval_layout,
            node=config.data,
            collate=collate,
            seed=data_seed,
            device=self.engine.device,
            primary=distributed.rank() % together == 0,
        )
        eval_data = {name: make_data(one()) for name, one in sets.items()}
        predict_dataset = given.predict_dataset
        if predict_dataset is None and config.run.do_predict:
            predict_dataset = build(config.data.predict_dataset)
        self.evaluator = Evaluator(
            config,
            model,
            task,
            eval_data=eval_data,
            predict_data=None if predict_dataset is None else make_data(predict_dataset),
            compute_metrics=given.compute_metrics or load_compute_metrics(config.evaluation),
        )
        state = self.state
        if config.run.do_train:
            state.max_steps = self.data.max_steps(train.max_steps, train.num_train_epochs)
        state.num_train_epochs = (
            state.max_steps / self.data.steps_per_epoch if self.data.steps_per_epoch else train.num_train_epochs
        )
        self.scheduler = make_scheduler(
            config.scheduler, optimizer, max(1, state.max_steps), mode="max" if self.best.greater_is_better else "min"
        )
        self.loop = Loop(
            engine=self.engine,
            model=model,
            task=task,
            optimizer=optimizer,
            scheduler=self.scheduler,
            data=self.data,
            state=state,
            control=self.control,
            events=self.events,
            meter=Meter(self.engine.device),
            intervals=Intervals.of(config, state.max_steps),
            interrupts=interrupts,
            nan_policy=train.nan_policy,
            fp16=config.precision.fp16,
            token_weights=type(task).num_items is not Task.num_items,
            average_tokens=train.average_tokens_across_devices,
            tokens=tokens,
            nan_inf_filter=config.logging.logging_nan_inf_filter,
            save_on_signal=config.checkpoint.enable_jit_checkpoint,
            best=self.best,
            evaluate=self.evaluate,
            save=lambda: self.keeping.save(),
            rollback=lambda: self.keeping.rollback(),
            log=self.log,
        )
        self.keeping = Keeping(config, directory, self.loop, self.metrics, self.batch_size)
        averages.train_weights(optimizer)
        # rank 0 goes on from the state the model's initialisation left, as one process would; the others differ,
        # so that dropout does
        seed_everything(seed + distributed.rank() // self.engine.tensor_parallel_size)

    def train(self) -> str:
        """Resume if asked to, tell the reporters, run the loop, export the weights."""
        config, state = self.config, self.state
        hub = Hub(config, self.directory, self.engine, self.loop.model) if config.hub.push_to_hub else None
        self.events = self.loop.events = Events(
            {n: self.callback(node) for n, node in config.callbacks.items() if n not in self.objects.callbacks}
            | dict(self.objects.callbacks)
            | self.own_callbacks
            | ({"hub": hub} if hub else {}),
            self.reporters() if distributed.is_main() else {},
            timeout=config.logging.reporter_timeout,
        )
        store.clean(self.keeping.root)
        self.keeping.resume()
        self.first_step = state.step
        if distributed.is_main():
            manifest = run_directory.read(self.directory)
            world = distributed.world_size()
            run_directory.update(self.directory, devices=[device_name(self.engine.device)] * world, world_size=world)
            if config.train.auto_find_batch_size:
                run_directory.update(self.directory, train_batch_size=self.batch_size)
            self.events.start(
                RunInfo(
                    directory=self.directory,
                    run_id=manifest["run_id"],
                    run_name=config.run.run_name or "-".join(self.directory.parts[-2:]),
                    project=config.run.project,
                    config=mask(run_directory.plain(config)),
                    resumed_step=state.step,
                ),
                state,
            )
        if not config.run.do_train:
            self.infer()
            return "completed"
        if config.evaluation.eval_on_start and state.step == 0:
            self.report_evaluation()
        self.started = self.loop.started = time.perf_counter()
        with measured("train", self.engine.device, self.memory, skip=config.logging.skip_memory_metrics):
            status = self.loop.run()
        self.keeping.finish()
        if status == "completed":
            self.summarise()
            if self.keeping.export():
                self.evaluated = None
            if hub:
                hub.end(state)
            self.infer()
        return status

    def callback(self, node: Any) -> Callback:
        """Build one of `callbacks`; ours may ask for the metric that ranks evaluations."""
        runtime = (
            {"metric": self.best.metric, "greater_is_better": self.best.greater_is_better}
            if isinstance(node, EarlyStopping)
            else {}
        )
        built: Callback = build(node, **runtime)
        return built

    def reporters(self) -> dict[str, Reporter]:
        """The config's, and those that were passed."""
        passed = self.objects.reporters
        nodes = {name: node for name, node in self.config.logging.reporters.items() if name not in passed}
        return build_reporters(nodes) | dict(passed)

    # What the loop calls ---------------------------------------------------------------------------------------

    def log(self, values: dict[str, Any]) -> None:
        """One record to metrics.jsonl and the reporters."""
        state = self.state
        self.latest |= values
        if self.metrics is None:
            return
        record = {"step": state.step, "epoch": state.epoch, "time": time.time(), **values}
        self.metrics.write(record)
        self.events.report(record)

    def evaluate(self) -> dict[str, float]:
        """One evaluation of the current weights."""
        with batch_size.evaluation(self.config), averages.average_weights(self.loop.optimizer):
            metrics = self.evaluator.evaluate()
        self.evaluated = self.state.step
        return metrics

    def report_evaluation(self) -> None:
        """One that decides nothing: it is no candidate for the best."""
        metrics = self.evaluate()
        self.log(metrics)
        self.events.on_evaluate(self.state, self.control, metrics)

    # Before and after ------------------------------------------------------------------------------------------

    def infer(self) -> None:
        """What run.do_eval and run.do_predict ask for, with the final weights."""
        self.loop.interrupts.at_once = True
        if self.config.run.do_eval and self.evaluated != self.state.step:
            self.report_evaluation()
        if self.config.run.do_predict:
            metrics = self.evaluator.write_predictions(self.directory)
            self.log(metrics)
            self.events.on_predict(self.state, self.control, metrics)

    def summarise(self) -> None:
        """The end's record, with the Trainer's keys."""
        state, steps = self.state, self.state.step - self.first_step
        runtime = time.perf_counter() - self.started
        self.loop.meter.reduce()
        samples = self.data.samples(state.step) - self.data.samples(self.first_step)
        self.log(
            {
                "train_loss": self.loop.meter.whole / max(1, state.step),
                "train_runtime": runtime,
                "train_samples_per_second": samples / runtime,
                "train_steps_per_second": steps / runtime,
                **self.loop.token_metrics(),
                **self.memory,
            }
        )

    def forget(self) -> None:
        """What a run leaves that is to start over with another batch size: nothing."""
        if distributed.is_main():
            shutil.rmtree(self.keeping.root, ignore_errors=True)
            assert self.metrics is not None
            self.metrics.truncate(0)

    def close(self, status: str) -> None:
        """Close reporters and files; note the last and best metrics."""
        if distributed.is_main():
            before = (
                {} if self.config.run.do_train else run_directory.read(self.directory).get("result", {}).get("last", {})
            )
            best = {"metric": self.best.metric, "value": self.state.best_metric, "step": self.state.best_step}
            run_directory.update(
                self.directory,
                result={
                    "step": self.state.step,
                    "last": before | self.latest,
                    "best": best if self.state.best_step else None,
                },
            )
        self.events.finish(status)
        if self.metrics:
            self.metrics.close()
        self.engine.close()


def _named(config: Config, objects: Objects) -> dict[str, Callable[[], Any]]:
    """What gives the evaluation sets, by name; ``""`` for a single one."""
    passed = objects.eval_dataset
    if passed is not None:
        sets = passed if isinstance(passed, dict) else {"": passed}
        return {name: partial(_same, data) for name, data in sets.items()}
    return {name: partial(build, node) for name, node in named_sets(config.data.eval_dataset).items()}


def _same(data: Any) -> Any:
    return data


def count(model: nn.Module) -> int:
    """Parameters of a model (whole ones, also where zero.Init has partitioned them)."""
    return sum(math.prod(getattr(p, "ds_shape", p.shape)) for p in model.parameters())
