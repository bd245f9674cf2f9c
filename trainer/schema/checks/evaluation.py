"""Rules of evaluation, prediction and the best model: what needs which data, functions and metrics."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import callbacks, scheduler, task
from ..checkpoint import SaveStrategy
from ..config import Config
from ..data import named_sets
from ..evaluation import IntervalStrategy


def switches(config: Config) -> Iterator[Problem]:
    """A run has something to do, and the data for it."""
    run = config.run
    if not (run.do_train or run.do_eval or run.do_predict):
        fix, related = "run.do_eval=true or run.do_predict=true", ("run.do_eval", "run.do_predict")
        yield Problem(key="run.do_train", value=False, what="leaves nothing to do", fix=fix, related=related)
    for name, part in (("do_train", "train"), ("do_eval", "eval"), ("do_predict", "predict")):
        if getattr(run, name) and not getattr(config.data, f"{part}_dataset"):
            key = f"data.{part}_dataset"
            fix = f"{key}._target_=package.Dataset or run.{name}=false"
            what = f"needs {key}, which is null"
            yield Problem(key=f"run.{name}", value=True, what=what, fix=fix, related=(key, "data"))


def metric_function(config: Config) -> Iterator[Problem]:
    """What prepares the call of evaluation.compute_metrics needs one; without predictions it cannot be called."""
    node, key = config.evaluation, "evaluation.compute_metrics"
    if node.compute_metrics is None:
        fix = f"{key}=package.module.function"
        if node.batch_eval_metrics:
            yield Problem(key="evaluation.batch_eval_metrics", value=True, what=f"needs {key}", fix=fix, related=(key,))
        if node.include_for_metrics:
            value = [str(name) for name in node.include_for_metrics]
            yield Problem(
                key="evaluation.include_for_metrics", value=value, what=f"needs {key}", fix=fix, related=(key,)
            )
    elif node.prediction_loss_only:
        what, fix = f"excludes {key}, which needs predictions", f"{key}=null"
        yield Problem(key="evaluation.prediction_loss_only", value=True, what=what, fix=fix, related=(key,))


def best_metric(config: Config) -> Iterator[Problem]:
    """checkpoint.metric_for_best_model is one that evaluations give, as far as that is known before they run."""
    key, name = "checkpoint.metric_for_best_model", config.checkpoint.metric_for_best_model
    if config.evaluation.eval_strategy == IntervalStrategy.no or not config.run.do_train:
        return
    known, sets = _metrics(config), [name for name in named_sets(config.data.eval_dataset) if name]
    related = ("data.eval_dataset", "evaluation", "task")
    if name is None:
        if sets and _ranks_evaluations(config):
            fix = f"{key}=eval_{sets[0]}_loss"
            what = f"must name one metric: data.eval_dataset holds several sets ({', '.join(sets)})"
            yield Problem(key=key, value=None, what=what, fix=fix, related=related)
    elif known is not None:
        given = [f"{one}_{metric}" if one else metric for one in sets or [""] for metric in known]
        if name.removeprefix("eval_") not in given:
            yield Problem(
                key=key, value=name, what="no evaluation gives this metric", allowed=", ".join(given), related=related
            )


def _metrics(config: Config) -> list[str] | None:
    """Metrics of an evaluation, without prefixes; None when code of the user's own decides."""
    if config.evaluation.compute_metrics is not None:
        return None
    if isinstance(config.task, task.LanguageModeling):
        return ["loss", "perplexity"]
    if isinstance(config.task, task.Classification | task.Regression):
        return ["loss", *([] if config.evaluation.prediction_loss_only else config.task.metrics)]
    return None


def _ranks_evaluations(config: Config) -> bool:
    """Whether something depends on which evaluation is the best."""
    return (
        config.checkpoint.load_best_model_at_end
        or config.checkpoint.save_strategy == SaveStrategy.best
        or isinstance(config.scheduler, scheduler.ReduceLROnPlateau)
        or any(isinstance(node, callbacks.EarlyStopping) for node in config.callbacks.values())
    )
