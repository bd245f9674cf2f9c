"""Rules of `checkpoint`: what makes a checkpoint the best one, and when it can be loaded at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from ...errors import Problem, closest
from .. import callbacks, scheduler, task
from ..checkpoint import SaveStrategy
from ..config import Config
from ..data import named_sets
from ..drift import leaves_of
from ..evaluation import IntervalStrategy
from .bounds import is_finite
from .evaluation import evaluates, needs_evaluation
from .sentences import needs, outside, wrong

LOAD = "checkpoint.load_best_model_at_end"


def best_needs_evaluation(config: Config) -> Iterator[Problem]:
    """The best checkpoint is the one with the best evaluation."""
    if config.checkpoint.load_best_model_at_end:
        yield from needs_evaluation(config, LOAD, True)
    if config.checkpoint.save_strategy == SaveStrategy.best:
        yield from needs_evaluation(config, "checkpoint.save_strategy", "best")


def best_model(config: Config) -> Iterator[Problem]:
    """load_best_model_at_end can only load what was saved right after an evaluation (HF's rules 5 to 8)."""
    saving, evaluation = config.checkpoint, config.evaluation
    if not (saving.load_best_model_at_end and evaluates(config)) or saving.save_strategy == SaveStrategy.best:
        return
    related = ("checkpoint.save_strategy", "evaluation.eval_strategy")
    if saving.save_strategy.value != evaluation.eval_strategy.value:
        other = f"save_strategy ({saving.save_strategy}) to be eval_strategy ({evaluation.eval_strategy}) or best"
        fix = f"checkpoint.save_strategy={evaluation.eval_strategy}"
        yield needs(LOAD, True, other, fix=fix, related=related)
    elif evaluation.eval_strategy == IntervalStrategy.steps:
        every, save = evaluation.eval_steps or config.logging.logging_steps, saving.save_steps
        if not (is_finite(every) and is_finite(save)) or every <= 0 or save <= 0:
            return
        ratio = save / every
        if (every < 1) != (save < 1) or abs(ratio - round(ratio)) > 1e-6 or round(ratio) < 1:
            other = f"checkpoint.save_steps ({save}) to be a multiple of evaluation.eval_steps ({every})"
            fix = f"checkpoint.save_steps={every}"
            yield needs(LOAD, True, other, fix=fix, related=(*related, "logging.logging_steps"))


def best_metric(config: Config) -> Iterator[Problem]:
    """metric_for_best_model is one that evaluations give, as far as that is known before they run."""
    key, name = "checkpoint.metric_for_best_model", config.checkpoint.metric_for_best_model
    if not evaluates(config) or not config.run.do_train:
        return
    known, sets = _metrics(config), [name for name in named_sets(config.data.eval_dataset) if name]
    related = ("data.eval_dataset", "evaluation", "task")
    if name is None:
        if sets and _ranks_evaluations(config):
            what = f"must name one metric: data.eval_dataset holds several sets ({', '.join(sets)})"
            yield wrong(key, None, what, fix=f"{key}=eval_{sets[0]}_loss", related=related)
    elif known is not None:
        given = [f"{one}_{metric}" if one else metric for one in sets or [""] for metric in known]
        if name.removeprefix("eval_") not in given:
            yield outside(key, name, "no evaluation gives this metric", ", ".join(given), related=related)


def _metrics(config: Config) -> list[str] | None:
    """Metrics of an evaluation, without prefixes; None when the user's own code decides."""
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


def nodes(config: Config) -> Iterator[Problem]:
    """A run's directory is one for all machines."""
    if config.checkpoint.save_on_each_node:
        what = "every rank writes its part into the run's directory, on a file system that all nodes share"
        yield wrong("checkpoint.save_on_each_node", True, what, fix="checkpoint.save_on_each_node=false")


def allowed_drift(config: Config) -> Iterator[Problem]:
    """checkpoint.allow_drift names keys that this config has."""
    key, given = "checkpoint.allow_drift", config.checkpoint.allow_drift
    if not given:
        return
    names = set(leaves_of(asdict(config)))
    for name in list(names):
        names.update(name[:end] for end, letter in enumerate(name) if letter == ".")
    for entry in given:
        if entry not in names:
            what = f"there is no key {entry}"
            yield Problem(key=key, value=given, what=what, suggestion=closest(entry, names))


RULES = (best_needs_evaluation, best_model, best_metric, nodes, allowed_drift)
