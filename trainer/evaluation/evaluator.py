"""Evaluation and prediction with a model's current weights: in a run, or standalone in one process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import distributed
from ..build.build import build
from ..data.batches import BatchLayout
from ..data.collate import make_collate
from ..data.eval_data import EvalData
from ..distributed.device import this_device
from ..precision import autocast_forward, full_eval, set_tf32
from ..schema import Config
from ..schema.data import named_sets
from ..schema.precision import Precision
from ..task import Task, make_task
from . import prediction_file
from .evaluate import EvaluationLoop
from .metrics import ComputeMetrics, load_compute_metrics

logger = logging.getLogger(__name__)


class PredictionOutput(NamedTuple):
    """A prediction's result (HF: PredictionOutput). Arrays are numpy's, a row per sample in the dataset's order; of
    several outputs or labels a tuple of them; on rank 0 only."""

    predictions: Any
    """None with evaluation.prediction_loss_only, and on other ranks."""
    label_ids: Any
    """None where the batches have no targets."""
    metrics: dict[str, Any]
    """`test_loss`, `test_<metric>` ... as far as there are targets; `test_runtime` and so on."""


class Evaluator:
    """Evaluates and predicts with a model's current weights.

    All methods are collective: every rank of the process group calls them, with its own share of the data.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        task: Task,
        *,
        eval_data: Mapping[str, EvalData],
        predict_data: EvalData | None = None,
        compute_metrics: ComputeMetrics | None = None,
        autocast: torch.device | None = None,
    ) -> None:
        """Args:
        eval_data: the sets to evaluate, by name; a single one has the name ``""``.
        predict_data: the set to predict.
        compute_metrics: from an EvalPrediction to a dict of numbers.
        autocast: the device to autocast on, for a model that no engine has set up for config.precision.
        """
        self.node, self.precision, self.model, self.task = config.evaluation, config.precision, model, task
        self.eval_data = {f"eval_{name}" if name else "eval": data for name, data in eval_data.items()}
        self.predict_data, self.compute_metrics, self.autocast = predict_data, compute_metrics, autocast

    def evaluate(self) -> dict[str, Any]:
        """Evaluate every set: `eval_loss`, `eval_<metric>` ..., or `eval_<set>_loss` and so on for sets with names.

        Raises ValueError when there is nothing to evaluate.
        """
        if not self.eval_data:
            raise ValueError("evaluation needs data.eval_dataset")
        metrics: dict[str, Any] = {}
        with self._in_precision():
            for prefix, data in self.eval_data.items():
                metrics |= self._loop(data).run(data, prefix=prefix)
        return metrics

    def predict(self) -> PredictionOutput:
        """Predict: the outputs for every sample, and metrics as far as there are targets.

        Raises ValueError when there is nothing to predict.
        """
        data = self.predict_data
        if data is None:
            raise ValueError("prediction needs data.predict_dataset")
        loop = self._loop(data, predict=True)
        with self._in_precision():
            metrics = loop.run(data, prefix="test")
        arrays = loop.collector.result() if loop.collector is not None else {}
        return PredictionOutput(arrays.get("predictions"), arrays.get("label_ids"), metrics)

    def write_predictions(self, directory: Path) -> dict[str, Any]:
        """Predict, write the predictions to a file in ``directory`` (rank 0), and return their metrics."""
        found = self.predict()
        if found.predictions is not None and distributed.is_main():
            columns = {"predictions": found.predictions, "label_ids": found.label_ids}
            path = prediction_file.write(directory, columns, objects=self.node.eval_use_gather_object)
            logger.info("predictions: %s", path)
        return found.metrics

    def _loop(self, data: EvalData, *, predict: bool = False) -> EvaluationLoop:
        compute = self.compute_metrics
        return EvaluationLoop(self.model, self.task, self.node, data.device, compute_metrics=compute, predict=predict)

    @contextmanager
    def _in_precision(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.autocast is not None:
                stack.enter_context(_autocast(self.model, self.precision, self.autocast))
            stack.enter_context(full_eval(self.model, self.precision))
            yield


def make_evaluator(
    config: Config,
    model: nn.Module,
    *,
    task: Any = None,
    eval_dataset: Any = None,
    predict_dataset: Any = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    compute_metrics: ComputeMetrics | None = None,
) -> Evaluator:
    """An evaluator for this process alone, without a training session: for `Trainer.evaluate()` and `.predict()`.

    ``model``, a plain module with the weights to use, is moved to this process's device and runs in config.precision's
    format, as in training. Metrics and predictions are returned in memory; nothing is written.

    Args:
        task, collate_fn, compute_metrics: in place of what the config names.
        eval_dataset: a dataset, or datasets by name. Default: data.eval_dataset, unless there is a ``predict_dataset``.
        predict_dataset: the dataset for `predict`; its items need no targets.
    """
    device = this_device(use_cpu=config.run.use_cpu)
    set_tf32(config.precision, device)
    smoothing = config.train.label_smoothing_factor
    task = make_task(task or config.task, label_names=config.data.label_names, label_smoothing=smoothing)
    make_data = partial(
        EvalData,
        layout=BatchLayout(config.evaluation.per_device_eval_batch_size, 1, 1, 0),
        node=config.data,
        collate=collate_fn or make_collate(config.data, task, model),
        seed=config.run.seed if config.data.data_seed is None else config.data.data_seed,
        device=device,
    )
    sets = named_sets(eval_dataset)
    if eval_dataset is None and predict_dataset is None:
        sets = {name: build(node) for name, node in named_sets(config.data.eval_dataset).items()}
    return Evaluator(
        config,
        model.to(device),
        task,
        eval_data={name: make_data(dataset) for name, dataset in sets.items()},
        predict_data=None if predict_dataset is None else make_data(predict_dataset),
        compute_metrics=compute_metrics or load_compute_metrics(config.evaluation),
        autocast=device,
    )


@contextmanager
def _autocast(model: nn.Module, precision: Precision, device: torch.device) -> Iterator[None]:
    """Inside, ``model`` computes under autocast; afterwards its forward is what it was."""
    own = vars(model).get("forward")
    autocast_forward(model, precision, device)
    try:
        yield
    finally:
        vars(model).pop("forward", None)
        if own is not None:
            model.forward = own
