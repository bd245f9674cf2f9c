"""One pass over evaluation or prediction data: mean loss, metrics, predictions, speed; the same at any number of
ranks. Leaves no trace in the training's random state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import distributed
from ..build.build import load
from ..data.eval_data import EvalData
from ..rng import preserved_rng
from ..schema.evaluation import Evaluation, MetricInput
from ..task.task import Output, Task, accepted_keys
from .predictions import Collector, EvalPrediction, Part

ComputeMetrics = Callable[..., dict[str, Any]]


def load_compute_metrics(node: Evaluation) -> ComputeMetrics | None:
    """What evaluation.compute_metrics names; a class as its only object, so that it may count over batches."""
    found = load(node.compute_metrics) if node.compute_metrics else None
    return found() if isinstance(found, type) else found


def evaluate(
    model: nn.Module,
    task: Task,
    data: EvalData,
    node: Evaluation,
    *,
    compute_metrics: ComputeMetrics | None = None,
    prefix: str = "eval",
) -> dict[str, Any]:
    """``eval_loss`` is the mean over samples of the batches' mean losses (as the Trainer weighs them), over all ranks
    and without repeated samples; the task's torchmetrics follow as ``eval_<name>``, what it derives from them, and
    compute_metrics' results; then ``eval_runtime`` in seconds, ``eval_samples_per_second`` and
    ``eval_steps_per_second``. Collective.
    """
    return run_pass(model, task, data, node, compute_metrics=compute_metrics, prefix=prefix)[0]


def run_pass(
    model: nn.Module,
    task: Task,
    data: EvalData,
    node: Evaluation,
    *,
    compute_metrics: ComputeMetrics | None,
    prefix: str,
    predict: bool = False,
) -> tuple[dict[str, Any], Collector | None]:
    """The metrics, and what was kept: with ``predict`` the predictions, though batches may lack targets."""
    compute = None if node.prediction_loss_only else compute_metrics
    at_once = compute is not None and not node.batch_eval_metrics
    kept = Collector(node.eval_use_gather_object) if at_once or (predict and not node.prediction_loss_only) else None
    batch = Collector(node.eval_use_gather_object) if compute is not None and not at_once else None
    names = {} if node.prediction_loss_only else task.metrics()
    metrics: dict[str, Any] = {name: metric.to(data.device) for name, metric in names.items()}
    # of loss times samples; of samples with a loss, with a target, and all
    sums = torch.zeros(4, dtype=torch.float64, device=data.device)
    computed: dict[str, Any] = {}
    steps, training, started = 0, model.training, time.perf_counter()
    model.eval()
    try:
        with torch.no_grad(), preserved_rng():
            for content, count, last in _ahead(data) if batch else ((*pair, False) for pair in data):
                steps += 1
                out = _forward(model, task, content, predict=predict, loss_only=node.prediction_loss_only)
                part = None
                if count:  # a rank without samples of its own only takes part in the collectives
                    scored = _weight(task, content, out, count).to(sums)
                    mean = scored if out.loss is None else out.loss.to(sums)
                    loss = torch.where(scored > 0, mean * count, 0.0)
                    counts = sums.new_tensor([(out.targets is not None) * count, count])
                    sums += torch.stack([loss, scored, *counts])
                    for metric in metrics.values() if out.targets is not None else ():
                        metric.update(out.predictions, out.targets)
                    if kept is not None or batch is not None:
                        part = _part(model, task, content, count, out, node)
                if kept is not None:
                    kept.add(part)
                    if node.eval_accumulation_steps and steps % node.eval_accumulation_steps == 0:
                        kept.flush()
                if batch is not None:
                    batch.add(part)
                    whole = batch.take()
                    if whole is not None and (not predict or whole["label_ids"] is not None):
                        assert compute is not None
                        computed = compute(EvalPrediction(**whole), compute_result=last)
            distributed.all_reduce_sum(sums)
            total, scored, labelled, samples = sums.tolist()
            if not samples:
                raise ValueError(f"data.{'predict' if predict else 'eval'}_dataset is empty")
            result: dict[str, Any] = {"loss": total / scored} if scored else {}
            result |= {name: float(metric.compute()) for name, metric in metrics.items() if labelled}
            result |= task.summarise(result) if scored else {}
            if kept is not None and compute is not None and at_once and (labelled or not predict):
                whole = kept.result(concatenate=node.eval_do_concat_batches)
                computed = compute(EvalPrediction(**whole)) if distributed.is_main() else {}
            if compute is not None:
                result |= distributed.broadcast(numbers(computed))
    finally:
        model.train(training)
    runtime = time.perf_counter() - started
    result |= {"runtime": runtime, "samples_per_second": samples / runtime, "steps_per_second": steps / runtime}
    return {n if n.startswith(f"{prefix}_") else f"{prefix}_{n}": value for n, value in result.items()}, kept


def numbers(metrics: Any) -> Any:
    """Python's numbers for those of numpy and torch, at any depth."""
    if isinstance(metrics, Mapping):
        return {str(name): numbers(value) for name, value in metrics.items()}
    if isinstance(metrics, list | tuple):
        return [numbers(value) for value in metrics]
    if isinstance(metrics, Tensor | np.ndarray | np.generic):
        return numbers(np.asarray(metrics).tolist()) if np.size(metrics) != 1 else np.asarray(metrics).item()
    if isinstance(metrics, bool | int | float | str) or metrics is None:
        return metrics
    raise TypeError(f"evaluation.compute_metrics must return a dict of numbers, not of a {type(metrics).__name__}")


def main_input(model: nn.Module, batch: Any) -> Any:
    """What the model works on: `main_input_name` of a transformers model, `input_ids`, or the first thing it takes."""
    if not isinstance(batch, Mapping):
        return batch[0] if isinstance(batch, tuple | list) else batch
    name = getattr(getattr(model, "module", model), "main_input_name", "input_ids")
    accepted = accepted_keys(model)
    names = [name, *(key for key in batch if accepted is None or key in accepted)]
    return next(batch[key] for key in names if key in batch)


def _forward(model: nn.Module, task: Task, batch: Any, *, predict: bool, loss_only: bool) -> Output:
    if predict:  # a class of the user's own need not derive from Task
        out: Output = getattr(task, "predict", task.evaluate)(model, batch)
        return out
    return Output(task.loss(model, batch)) if loss_only else task.evaluate(model, batch)


def _weight(task: Task, batch: Any, out: Output, count: int) -> Tensor:
    """The samples that a batch's loss counts for: none where it is a mean over no items (labels), which is nan."""
    items = None if out.loss is None else task.num_items(batch)
    weight = torch.tensor(0 if out.loss is None else count)
    return weight if items is None else torch.as_tensor(items).gt(0) * count  # no synchronisation


def _part(model: nn.Module, task: Task, batch: Any, count: int, out: Output, node: Evaluation) -> Part:
    """What compute_metrics or the file of predictions needs of a batch."""
    if out.predictions is None:
        what = f"{type(task).__name__} gives no predictions, which evaluation.compute_metrics and run.do_predict need"
        raise ValueError(f"{what}; fix: evaluation.prediction_loss_only=true, or an evaluate() that returns them")
    wanted = node.include_for_metrics
    return {
        "predictions": out.predictions,
        "label_ids": out.targets,
        "inputs": main_input(model, batch) if MetricInput.inputs in wanted else None,
        "losses": out.loss.repeat(count) if MetricInput.loss in wanted and out.loss is not None else None,
    }


def _ahead(data: EvalData) -> Iterator[tuple[Any, int, bool]]:
    """The batches, and whether each is the last one."""
    batches = iter(data)
    following = next(batches, None)
    while following is not None:
        batch, count = following
        following = next(batches, None)
        yield batch, count, following is None
