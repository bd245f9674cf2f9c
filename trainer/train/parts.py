"""Builds the parts of a run on one rank: what it trains on, the model and its engine, the callbacks and the loop.

The order matters to the numbers: datasets, the model and callbacks may draw from the global random generators.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .. import distributed
from ..build.build import build
from ..callbacks.callback import Callback
from ..callbacks.debug import watchers
from ..callbacks.empty_cache import EmptyCache
from ..checkpoint.best import Best
from ..compile import compile_model
from ..data.batches import BatchLayout
from ..data.collate import make_collate
from ..data.eval_data import EvalData
from ..data.train_data import TrainData
from ..distributed.device import device_name
from ..evaluation.evaluator import Evaluator
from ..evaluation.metrics import load_compute_metrics
from ..events import Events
from ..hub import Hub
from ..logging.reporter import Reporter, build_reporters
from ..memory import save_memory
from ..optim import make_optimizer
from ..parallel.engine import Engine
from ..rng import seed_everything
from ..schema import Config
from ..schema.callbacks import EarlyStopping
from ..schema.data import named_sets
from ..task import Task, make_task
from ..task.task import Supervised
from .neftune import add_noise
from .objects import Objects
from .restoration import restored_model
from .tokens import TokenCounter

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Sources:
    """What is trained on, and by which loss."""

    train_dataset: Any
    """None if the run does not train."""
    task: Task


@dataclass(kw_only=True, slots=True)
class Trainee:
    """The model, and what trains it."""

    module: nn.Module
    """As built or passed."""
    model: nn.Module
    """The engine's, which is called."""
    engine: Engine
    optimizer: Optimizer
    tokens: TokenCounter | None
    callbacks: dict[str, Callback]
    """Those that other sections of the config ask for."""


def build_sources(config: Config, objects: Objects) -> Sources:
    """The training dataset and the task."""
    dataset = None
    if config.run.do_train:
        dataset = build(config.data.train_dataset) if objects.train_dataset is None else objects.train_dataset
    node = config.task if objects.task is None else objects.task
    smoothing = config.train.label_smoothing_factor
    task = make_task(node, label_names=config.data.label_names, label_smoothing=smoothing)
    return Sources(train_dataset=dataset, task=task)


def build_trainee(config: Config, objects: Objects, device: torch.device, stack: ExitStack) -> Trainee:
    """The engine, the model and its optimizer; ``stack`` closes them."""
    undo = stack.enter_context(ExitStack())  # after engine.close, which undoes what came last
    engine: Engine = build(config.parallel, precision=config.precision, device=device)
    stack.callback(engine.close)
    seed_everything(config.run.seed)  # the weights depend on the seed alone, not on what the datasets drew
    with engine.model_context():
        module: nn.Module = build(config.model) if objects.model is None else objects.model
    undo.enter_context(restored_model(module))
    if distributed.is_main():
        logger.info("%s: %s parameters, %s", type(module).__name__, f"{count(module):,}", device_name(device))
    tokens = TokenCounter.of(module, config.logging, device)
    callbacks = watchers(config.run.debug, module)
    if config.memory.torch_empty_cache_steps is not None:
        callbacks["memory.torch_empty_cache_steps"] = EmptyCache(config.memory.torch_empty_cache_steps)
    add_noise(module, config.train.neftune_noise_alpha)
    save_memory(module, config.memory, device)
    compile_model(module, config.compile)
    model, optimizer = engine.setup(
        module, partial(make_optimizer, config.optim), max_grad_norm=config.train.max_grad_norm
    )
    return Trainee(module=module, model=model, engine=engine, optimizer=optimizer, tokens=tokens, callbacks=callbacks)


def build_data(
    config: Config, objects: Objects, sources: Sources, trainee: Trainee, batch_size: int
) -> tuple[TrainData, Evaluator]:
    """The training batches, and what is evaluated and predicted."""
    task, engine = sources.task, trainee.engine
    if isinstance(task, Supervised):
        task.prepare(trainee.module)
    collate = objects.collate_fn or make_collate(config.data, task, trainee.module)
    share = engine.ranks_per_batch
    world, rank = distributed.world_size() // share, distributed.rank() // share
    layout = BatchLayout(batch_size, config.train.gradient_accumulation_steps, world, rank)
    seed = config.run.seed if config.data.data_seed is None else config.data.data_seed
    data = TrainData(sources.train_dataset, layout, config.data, collate=collate, seed=seed, device=engine.device)
    make_data = partial(
        EvalData,
        layout=BatchLayout(config.evaluation.per_device_eval_batch_size, 1, world, rank),
        node=config.data,
        collate=collate,
        seed=seed,
        device=engine.device,
        primary=distributed.rank() % share == 0,
    )
    eval_data = {name: make_data(dataset) for name, dataset in _eval_datasets(config, objects)}
    predicted = objects.predict_dataset
    if predicted is None and config.run.do_predict:
        predicted = build(config.data.predict_dataset)
    return data, Evaluator(
        config,
        trainee.model,
        task,
        eval_data=eval_data,
        predict_data=None if predicted is None else make_data(predicted),
        compute_metrics=objects.compute_metrics or load_compute_metrics(config.evaluation),
    )


def eval_names(config: Config, objects: Objects) -> list[str]:
    """The names of the evaluation sets; ``""`` for a single one."""
    return list(_passed_sets(objects) or named_sets(config.data.eval_dataset))


def _passed_sets(objects: Objects) -> dict[str, Any]:
    passed = objects.eval_dataset
    return {} if passed is None else dict(passed) if isinstance(passed, dict) else {"": passed}


def _eval_datasets(config: Config, objects: Objects) -> Iterator[tuple[str, Any]]:
    passed = _passed_sets(objects)
    yield from passed.items()
    for name, node in named_sets(config.data.eval_dataset).items() if not passed else ():
        yield name, build(node)


def build_events(
    config: Config, objects: Objects, directory: Path, trainee: Trainee, best: Best, stack: ExitStack
) -> tuple[Events, Hub | None]:
    """The callbacks and, on rank 0, the reporters; ``stack`` ends their threads."""
    hub = None
    if config.hub.push_to_hub:
        hub = Hub(config, directory, trainee.module)
        stack.callback(hub.close)
    callbacks = {
        name: _build_callback(node, best) for name, node in config.callbacks.items() if name not in objects.callbacks
    }
    callbacks |= {**objects.callbacks, **trainee.callbacks}
    events = Events(
        callbacks | ({"hub": hub} if hub else {}),
        _build_reporters(config, objects) if distributed.is_main() else {},
        timeout=config.logging.reporter_timeout,
    )
    stack.callback(events.finish, "failed")  # does nothing after Session.close
    return events, hub


def _build_callback(node: Any, best: Best) -> Callback:
    if isinstance(node, EarlyStopping):
        built: Callback = build(node, metric=best.metric, greater_is_better=best.greater_is_better)
    else:
        built = build(node)
    return built


def _build_reporters(config: Config, objects: Objects) -> dict[str, Reporter]:
    nodes = {name: node for name, node in config.logging.reporters.items() if name not in objects.reporters}
    return build_reporters(nodes) | dict(objects.reporters)


def count(model: nn.Module) -> int:
    """The number of a model's parameters; those that zero.Init has partitioned are counted whole."""
    return sum(math.prod(getattr(p, "ds_shape", p.shape)) for p in model.parameters())
