"""Rules of `evaluation`: the data, functions and metrics that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import Problem
from ..config import Config
from ..evaluation import IntervalStrategy
from .sentences import excludes, needs

METRICS = "evaluation.compute_metrics"


def needs_evaluation(config: Config, key: str, value: Any) -> Iterator[Problem]:
    """The problem that ``key`` has in a run which does not evaluate while it trains."""
    if not evaluates(config):
        fix, related = "evaluation.eval_strategy=steps", ("evaluation.eval_strategy",)
        yield needs(key, value, "evaluation", fix=fix, related=related)


def evaluates(config: Config) -> bool:
    """Whether a run evaluates while it trains."""
    return config.evaluation.eval_strategy != IntervalStrategy.no


def dataset(config: Config) -> Iterator[Problem]:
    """Evaluation needs something to evaluate on."""
    evaluation, key = config.evaluation, "data.eval_dataset"
    if config.data.eval_dataset:
        return
    for name, value, off, is_wrong in (
        ("evaluation.eval_strategy", evaluation.eval_strategy, "no", evaluates(config)),
        ("evaluation.eval_on_start", True, "false", evaluation.eval_on_start),
    ):
        if is_wrong:
            fix = f"{key}._target_=package.Dataset or {name}={off}"
            yield needs(name, value, f"{key}, which is null", fix=fix, related=("data",))


def metric_function(config: Config) -> Iterator[Problem]:
    """What prepares the call of compute_metrics needs one; without predictions it cannot be called."""
    node = config.evaluation
    if node.compute_metrics is None:
        fix = f"{METRICS}=package.module.function"
        if node.batch_eval_metrics:
            yield needs("evaluation.batch_eval_metrics", True, METRICS, fix=fix)
        if node.include_for_metrics:
            yield needs("evaluation.include_for_metrics", list(map(str, node.include_for_metrics)), METRICS, fix=fix)
    elif node.prediction_loss_only:
        other, fix = f"{METRICS}, which needs predictions", f"{METRICS}=null"
        yield excludes("evaluation.prediction_loss_only", True, other, fix=fix)


RULES = (dataset, metric_function)
