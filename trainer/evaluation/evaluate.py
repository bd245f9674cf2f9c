"""The evaluation loop: one pass over evaluation or prediction data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .. import distributed
from ..data.eval_data import EvalData
from ..rng import preserved_rng
from ..schema.evaluation import Evaluation, MetricInput
from ..task.task import Output, Task, accepted_keys
from .metrics import ComputeMetrics, to_python
from .predictions import Collector, EvalPrediction, Part


class EvaluationLoop:
    """One pass over a rank's data: mean loss, metrics, predictions, speed. The numbers are the same at any number of
    ranks, and the pass leaves the training's random state as it was.

    The loss is the mean over samples of the batches' mean losses (as the Trainer weighs them), over all ranks and
    without repeated samples. The task's torchmetrics, what the task derives from them, and compute_metrics' results
    follow.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        node: Evaluation,
        device: torch.device,
        *,
        compute_metrics: ComputeMetrics | None = None,
        predict: bool = False,
    ) -> None:
        """``predict``: collect the predictions even without compute_metrics, and accept batches without targets."""
        self.model, self.task, self.node, self.predict = model, task, node, predict
        loss_only = node.prediction_loss_only
        self.compute = None if loss_only else compute_metrics
        by_batch = self.compute is not None and node.batch_eval_metrics
        whole = self.compute is not None and not by_batch
        objects = node.eval_use_gather_object
        self.collector = Collector(objects) if whole or (predict and not loss_only) else None
        """Collects the whole pass, for compute_metrics or the caller."""
        self.batch_collector = Collector(objects) if by_batch else None
        """Collects one batch at a time, for compute_metrics."""
        metrics = {} if loss_only else task.metrics()
        self.metrics: dict[str, Any] = {name: metric.to(device) for name, metric in metrics.items()}
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        """Of the losses, weighted by samples; of the samples with a loss, with a target, and of all."""
        self.steps = 0
        self.computed: dict[str, Any] = {}

    def run(self, data: EvalData, *, prefix: str) -> dict[str, Any]:
        """Evaluate all of ``data``: ``<prefix>_loss``, ``<prefix>_<metric>`` ..., ``<prefix>_runtime`` in seconds,
        ``<prefix>_samples_per_second`` and ``<prefix>_steps_per_second``. Collective; call it once.

        Raises ValueError when ``data`` is empty, or when a metric needs predictions that the task does not return.
        """
        started = time.perf_counter()
        with _evaluation_mode(self.model), torch.no_grad(), preserved_rng():
            for batch, count, last in _with_last(data) if self.batch_collector else ((*pair, False) for pair in data):
                self.step(batch, count, last=last)
            samples, result = self.finish()
        runtime = time.perf_counter() - started
        result |= {
            "runtime": runtime,
            "samples_per_second": samples / runtime,
            "steps_per_second": self.steps / runtime,
        }
        return {n if n.startswith(f"{prefix}_") else f"{prefix}_{n}": value for n, value in result.items()}

    def step(self, batch: Any, count: int, *, last: bool) -> None:
        """One batch of ``count`` samples; with 0 the rank only takes part in the collectives."""
        self.steps += 1
        out = self.forward(batch)
        part = None
        if count:
            self.accumulate(batch, out, count)
            if self.collector is not None or self.batch_collector is not None:
                part = self.part(batch, out, count)
        if self.collector is not None:
            self.collector.add(part)
            if self.node.eval_accumulation_steps and self.steps % self.node.eval_accumulation_steps == 0:
                self.collector.flush()
        if self.batch_collector is not None:
            self.batch_collector.add(part)
            whole = self.batch_collector.take()
            if whole is not None and (not self.predict or whole["label_ids"] is not None):
                assert self.compute is not None
                self.computed = self.compute(EvalPrediction(**whole), compute_result=last)

    def forward(self, batch: Any) -> Output:
        """The model's output, with its loss as far as there is one."""
        if self.predict:  # a user's task need not derive from Task
            out: Output = getattr(self.task, "predict", self.task.evaluate)(self.model, batch)
            return out
        if self.node.prediction_loss_only:
            return Output(self.task.loss(self.model, batch))
        return self.task.evaluate(self.model, batch)

    def accumulate(self, batch: Any, out: Output, count: int) -> None:
        """Add a batch to the sums and the torchmetrics, without a synchronisation."""
        scored = torch.tensor(0 if out.loss is None else count)
        items = None if out.loss is None else self.task.num_items(batch)
        if items is not None:  # a mean over no items (labels) is nan
            scored = torch.as_tensor(items).gt(0) * count
        scored = scored.to(self.sums)
        mean = scored if out.loss is None else out.loss.to(self.sums)
        loss = torch.where(scored > 0, mean * count, 0.0)
        counts = self.sums.new_tensor([(out.targets is not None) * count, count])
        self.sums += torch.stack([loss, scored, *counts])
        for metric in self.metrics.values() if out.targets is not None else ():
            metric.update(out.predictions, out.targets)

    def part(self, batch: Any, out: Output, count: int) -> Part:
        """What compute_metrics, or the caller of a prediction, gets from a batch."""
        if out.predictions is None:
            what = f"{type(self.task).__name__} returns no predictions"
            needs = "which evaluation.compute_metrics and run.do_predict need"
            raise ValueError(
                f"{what}, {needs}; fix: evaluation.prediction_loss_only=true, or an evaluate() that returns them"
            )
        include = self.node.include_for_metrics
        return {
            "predictions": out.predictions,
            "label_ids": out.targets,
            "inputs": main_input(self.model, batch) if MetricInput.inputs in include else None,
            "losses": out.loss.repeat(count) if MetricInput.loss in include and out.loss is not None else None,
        }

    def finish(self) -> tuple[int, dict[str, Any]]:
        """The number of samples, and the metrics over all ranks. Collective."""
        distributed.all_reduce_sum(self.sums)
        total, scored, labelled, samples = self.sums.tolist()
        if not samples:
            raise ValueError(f"data.{'predict' if self.predict else 'eval'}_dataset is empty")
        result: dict[str, Any] = {"loss": total / scored} if scored else {}
        result |= {name: float(metric.compute()) for name, metric in self.metrics.items() if labelled}
        result |= self.task.summarise(result) if scored else {}
        if self.compute is not None:
            if self.batch_collector is None and (labelled or not self.predict):
                assert self.collector is not None
                whole = self.collector.result(concatenate=self.node.eval_do_concat_batches)
                self.computed = self.compute(EvalPrediction(**whole)) if distributed.is_main() else {}
            result |= distributed.broadcast(to_python(self.computed))
        return int(samples), result


def main_input(model: nn.Module, batch: Any) -> Any:
    """The model's main input: what a transformers model's `main_input_name` names, `input_ids`, or the first input."""
    if not isinstance(batch, Mapping):
        return batch[0] if isinstance(batch, tuple | list) else batch
    name = getattr(getattr(model, "module", model), "main_input_name", "input_ids")
    accepted = accepted_keys(model)
    names = [name, *(key for key in batch if accepted is None or key in accepted)]
    return next(batch[key] for key in names if key in batch)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _with_last(data: EvalData) -> Iterator[tuple[Any, int, bool]]:
    """The batches, and whether each is the last one."""
    batches = iter(data)
    following = next(batches, None)
    while following is not None:
        batch, count = following
        following = next(batches, None)
        yield batch, count, following is None
