"""One pass over the evaluation data: mean loss, metrics, speed. Leaves no trace in the training's random state."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from . import distributed
from .data.loader import EvalData
from .rng import preserved_rng
from .task.task import Task


def evaluate(model: nn.Module, task: Task, data: EvalData, *, prefix: str = "eval") -> dict[str, float]:
    """``eval_loss`` is the mean over samples of the batches' mean losses (as the Trainer weighs them), over all ranks
    and without repeated samples; the task's torchmetrics follow as ``eval_<name>``, then what it derives from them,
    ``eval_runtime`` in seconds, ``eval_samples_per_second`` and ``eval_steps_per_second``.
    """
    training = model.training
    model.eval()
    started = time.perf_counter()
    metrics: dict[str, Any] = {name: metric.to(data.device) for name, metric in task.metrics().items()}
    sums = torch.zeros(2, dtype=torch.float64, device=data.device)  # of loss times samples, and of samples
    steps = 0
    try:
        with torch.no_grad(), preserved_rng():
            for batch, count in data:
                steps += 1
                out = task.evaluate(model, batch)
                if not count:  # a rank without samples of its own only takes part in the collectives
                    continue
                sums[0] += out.loss.double() * count
                sums[1] += count
                for metric in metrics.values():
                    metric.update(out.predictions, out.targets)
        distributed.all_reduce_sum(sums)
        total, samples = sums.tolist()
        result = {"loss": total / samples}
        result |= {name: float(metric.compute()) for name, metric in metrics.items()}
        result |= task.summarise(result)
    finally:
        model.train(training)
    runtime = time.perf_counter() - started
    result |= {"runtime": runtime, "samples_per_second": samples / runtime, "steps_per_second": steps / runtime}
    return {f"{prefix}_{name}": value for name, value in result.items()}
