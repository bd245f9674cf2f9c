"""Training from Python: overrides as on the command line, objects in place of what they would name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..build.given import given_function, given_node
from ..config.composer import CONFIG_NAME, Composition, make_loader
from ..launch import start, torchrun
from ..run.directory import Status
from .run import Run

if TYPE_CHECKING:
    from torch import nn

    from ..callbacks.callback import Callback
    from ..evaluation.evaluator import Evaluator, PredictionOutput
    from ..launch.outcome import Outcome
    from ..launch.prepared import Prepared
    from ..logging.reporter import Reporter
    from ..schema import Config
    from ..task.task import Task
    from ..train.objects import Objects

SLOTS = ("model", "task", "data.train_dataset", "data.eval_dataset", "data.predict_dataset")
"""Keys of the config whose object may be given; the argument is the last part."""
FUNCTIONS = ("data.collate_fn", "evaluation.compute_metrics")
GIVEN_FUNCTION = f"{given_function.__module__}.{given_function.__qualname__}"


def compose(*overrides: str, config_name: str = CONFIG_NAME, config_dir: str | None = None) -> Config:
    """The typed, checked config of some overrides. Nothing is written, torch is not imported.

    Args:
        overrides: as on the command line: ``"optim=adamw"``, ``"train.max_steps=100"``.
        config_name: another primary config than config.yaml.
        config_dir: a folder with options of your own, besides ``./conf``.

    Raises:
        ConfigError: with every problem.
    """
    return start.check(_compose(overrides, config_name, config_dir))


def _compose(overrides: Sequence[str], name: str, directory: str | None) -> Composition:
    from hydra.types import RunMode

    return make_loader(directory).compose(name, list(overrides), RunMode.RUN)


class Trainer:
    """A run from Python.

        trainer = Trainer("experiment=digits", "optim.learning_rate=3e-4")
        run = trainer.train()

    Args:
        overrides: as on the command line.
        model: the module to train, in place; without one, ``model=`` or ``model._target_`` says what is built.
        task: a Task, or a loss of (output, target).
        train_dataset: a map-style or iterable dataset.
        eval_dataset: a dataset, or a dict of named ones.
        predict_dataset: what run.do_predict predicts.
        collate_fn: from a list of items to a batch (HF: data_collator).
        compute_metrics: from an EvalPrediction to a dict of numbers.
        callbacks: callbacks besides the config's; a list is named after their classes.
        reporters: reporters besides the config's, likewise.
        config_name: another primary config than config.yaml.
        config_dir: a folder with options of your own, besides ``./conf``.

    Raises:
        ConfigError: with every problem of the config.
    """

    def __init__(
        self,
        *overrides: str,
        model: nn.Module | None = None,
        task: Task | Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        predict_dataset: Any = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: Sequence[Callback] | Mapping[str, Callback] = (),
        reporters: Sequence[Reporter] | Mapping[str, Reporter] = (),
        config_name: str = CONFIG_NAME,
        config_dir: str | None = None,
    ) -> None:
        self._overrides, self._config_name, self._config_dir = list(overrides), config_name, config_dir
        self._given: dict[str, Any] = {
            "model": model,
            "task": task,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "predict_dataset": predict_dataset,
            "collate_fn": collate_fn,
            "compute_metrics": compute_metrics,
        }
        self._given = {name: value for name, value in self._given.items() if value is not None}
        self._callbacks, self._reporters = _named(callbacks), _named(reporters)
        self._model: nn.Module | None = None
        self.config = start.check(self._compose())
        """The typed config, checked."""

    # What is done ----------------------------------------------------------------------------------------------------

    def train(self, *, resume_from_checkpoint: str | None = None) -> Run:
        """Train, in a directory of its own; the run, however it ended: ``.status`` says whether a signal stopped it.

        One rank trains in this process. Several, and engines that take the model apart, have processes of their own;
        their weights are loaded into ``.model`` afterwards. In a script that torchrun has started, each process is a
        rank. ``cluster=slurm`` submits, and returns a `queued` run.

        Args:
            resume_from_checkpoint: `auto` or a path (HF's argument), as checkpoint.resume_from_checkpoint.

        Raises:
            ConfigError: the directory is taken, or cannot be made.
            RuntimeError: a rank in another process failed. What fails in this process is raised as it is.
        """
        key = "checkpoint.resume_from_checkpoint"
        more = [f"{key}={_quoted(resume_from_checkpoint)}"] if resume_from_checkpoint else []
        composition = self._compose(more)
        config = start.check(composition)

        def prepare() -> Prepared:
            prepared = start.prepare(composition, config, [*self._overrides, *more])
            prepared.notes["objects"] = self._names()
            return prepared

        if torchrun.is_joined():
            return self._join(prepare, config)
        prepared = prepare()
        if config.cluster is not None:
            start.submit([prepared])
            return Run(prepared.directory)
        ended = start.run(prepared, self._objects(), own_process=not _in_place(config))
        return self._finish(prepared.directory, ended)

    def _join(self, prepare: Callable[[], Prepared], config: Config) -> Run:
        """Train as one of the ranks that torchrun has started; each of them calls this."""
        objects = self._objects()
        if objects.model is not None and not _in_place(config):
            objects.model = deepcopy(objects.model)  # the engine takes this one apart
        joined = torchrun.train(prepare, objects)
        if joined is None:
            raise RuntimeError("rank 0 could not prepare the run: its own error says why")
        directory, ended = joined
        torchrun.wait_until_closed(directory)  # rank 0 writes model/, and this rank may be quicker
        return self._finish(directory, ended if _in_place(config) else replace(ended, model=None))

    def _finish(self, directory: Path, ended: Outcome) -> Run:
        """The run's directory, opened, and its weights in ``.model``; what failed is raised."""
        if ended.status is Status.failed:
            error = ended.error or Run(directory).manifest["error"]
            raise ended.exception or RuntimeError(f"{error}; traceback: {directory / 'train.log'}")
        run = Run(directory)
        if ended.model is not None:
            self._model = ended.model
        elif (directory / "model").is_dir():
            self._model = run.model(self.model)
        return run

    def evaluate(self, eval_dataset: Any = None) -> dict[str, Any]:
        """Evaluate the current weights in this process: `eval_loss`, `eval_<metric>` ...

        Args:
            eval_dataset: in place of the Trainer's: a dataset, or a dict of named ones.

        Raises:
            ValueError: there is nothing to evaluate on.
        """
        chosen = self._given.get("eval_dataset") if eval_dataset is None else eval_dataset
        return self._evaluator(eval_dataset=chosen).evaluate()

    def predict(self, predict_dataset: Any = None) -> PredictionOutput:
        """Predict with the current weights in this process.

        Args:
            predict_dataset: a dataset whose items need no target. Default: the Trainer's, or data.predict_dataset.

        Returns:
            ``predictions`` and ``label_ids`` (numpy arrays, a row per sample), and ``metrics`` (HF: PredictionOutput).

        Raises:
            ValueError: there is nothing to predict.
        """
        from ..build.build import build

        chosen = self._given.get("predict_dataset") if predict_dataset is None else predict_dataset
        if chosen is None:
            if self.config.data.predict_dataset is None:
                raise ValueError("prediction needs a dataset: predict(dataset), or data.predict_dataset")
            chosen = build(self.config.data.predict_dataset)
        return self._evaluator(predict_dataset=chosen).predict()

    @property
    def model(self) -> nn.Module:
        """The trained model; before training the one that was passed, or the one that would be trained."""
        if self._model is None:
            self._model = self._given.get("model")
        if self._model is None:
            from ..build.build import build
            from ..rng import preserved_rng, seed_everything

            with preserved_rng():
                seed_everything(self.config.run.seed)
                self._model = build(self.config.model)
        assert self._model is not None
        return self._model

    # Parts -----------------------------------------------------------------------------------------------------------

    def _compose(self, more: Sequence[str] = ()) -> Composition:
        nodes = {key: name for key in SLOTS if (name := key.rpartition(".")[2]) in self._given}
        words = [f"{key}={_node(self._given[name], name)}" for key, name in nodes.items()]
        words += [f"{key}={GIVEN_FUNCTION}" for key in FUNCTIONS if key.rpartition(".")[2] in self._given]
        for section, named in (("callbacks", self._callbacks), ("logging.reporters", self._reporters)):
            argument = section.rpartition(".")[2]
            words += [f"{section}.{name}={_node(value, argument)}" for name, value in named.items()]
        return _compose([*self._overrides, *words, *more], self._config_name, self._config_dir)

    def _names(self) -> dict[str, Any]:
        """What was given as an object, by the Trainer's argument and the object's class."""
        given: dict[str, Any] = {name: given_node(value, name)["object"] for name, value in self._given.items()}
        for argument, named in (("callbacks", self._callbacks), ("reporters", self._reporters)):
            if named:
                given[argument] = {name: given_node(value, argument)["object"] for name, value in named.items()}
        return given

    def _objects(self) -> Objects:
        from ..train.objects import Objects

        return Objects(**self._given, callbacks=self._callbacks, reporters=self._reporters)

    def _evaluator(self, **datasets: Any) -> Evaluator:
        from ..evaluation.evaluator import make_evaluator

        objects = self._objects()
        return make_evaluator(
            self.config,
            self.model,
            task=objects.task,
            collate_fn=objects.collate_fn,
            compute_metrics=objects.compute_metrics,
            **datasets,
        )


def _in_place(config: Config) -> bool:
    """Whether the engine leaves a caller's module as it is, so that it can be trained in this process."""
    from ..schema.parallel import DDP, Single

    return isinstance(config.parallel, Single | DDP)


def _named(objects: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Objects by name: those of a list are named after their classes, EarlyStopping as early_stopping."""
    if isinstance(objects, Mapping):
        return dict(objects)
    named: dict[str, Any] = {}
    for one in objects:
        name = base = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(one).__name__).lower()
        number = 1
        while name in named:
            number += 1
            name = f"{base}_{number}"
        named[name] = one
    return named


def _node(value: Any, argument: str) -> str:
    """The override's value that stands for an object."""
    if argument == "eval_dataset" and isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_node(one, 'eval_dataset')}" for name, one in value.items()) + "}"
    return "{" + ",".join(f"{key}:{_quoted(text)}" for key, text in given_node(value, argument).items()) + "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
