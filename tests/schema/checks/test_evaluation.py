"""Rules of evaluation, prediction and the best model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.build.calls import check_calls
from trainer.config.composer import Composition

Compose = Callable[..., Composition]


# Rules ------------------------------------------------------------------------------------------------------------

KEEP = "evaluation.compute_metrics=tests.evaluation.parts.keep"
SETS = [f"data.eval_dataset.{name}._target_=tests.tiny.Augmented" for name in "ab"]
BEST = ["checkpoint.save_strategy=best", "evaluation.eval_strategy=steps"]
CASES: list[tuple[list[str], str, str]] = [
    (["run.do_train=false"], "leaves nothing to do", "run.do_eval=true"),
    (["run.do_predict=true"], "needs data.predict_dataset, which is null", "run.do_predict=false"),
    (
        ["run.do_eval=true", "data.eval_dataset=null", "evaluation.eval_strategy=no"],
        "needs data.eval_dataset, which is null",
        "run.do_eval=false",
    ),
    (["data.train_dataset=null", "run.do_eval=true"], "needs data.train_dataset", "run.do_train=false"),
    (["evaluation.batch_eval_metrics=true"], "needs evaluation.compute_metrics", "evaluation.batch_eval_metrics=false"),
    (["evaluation.include_for_metrics=[inputs]"], "needs evaluation.compute_metrics", KEEP),
    ([KEEP, "evaluation.prediction_loss_only=true"], "needs predictions", "evaluation.compute_metrics=null"),
    (
        [*BEST, "checkpoint.metric_for_best_model=accuracy"],
        "no evaluation gives this metric; allowed: loss, perplexity",
        "checkpoint.metric_for_best_model=eval_perplexity",
    ),
    ([*BEST, *SETS], "must name one metric", "checkpoint.metric_for_best_model=eval_b_loss"),
    ([*BEST, *SETS, "checkpoint.metric_for_best_model=loss"], "allowed: a_loss, a_perplexity", KEEP),
    (["evaluation.compute_metrics=os.system"], "may not be named", KEEP),
    (
        ["data.eval_dataset.a._target_=tests.tiny.Augmented", "data.eval_dataset.b.c=1"],
        "data.eval_dataset.b (command line): has no _target_",
        "data.eval_dataset.b._target_=tests.tiny.Augmented",
    ),
]


@pytest.mark.parametrize(("overrides", "line", "cure"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_rule(compose: Compose, overrides: list[str], line: str, cure: str) -> None:
    found = [str(p) for p in compose(*overrides).problems]
    assert len(found) == 1, found
    assert line in found[0]
    given = {o.partition("=")[0]: o for o in [*overrides, *cure.split()]}
    assert not compose(*given.values()).problems


@pytest.mark.parametrize(("name", "problem"), [("Counted", None), ("keep", "takes no argument compute_result")])
def test_a_function_for_batches_takes_compute_result(compose: Compose, name: str, problem: str | None) -> None:
    config = compose(
        f"evaluation.compute_metrics=tests.evaluation.parts.{name}", "evaluation.batch_eval_metrics=true"
    ).config
    assert config is not None
    found = [str(p) for p in check_calls(config)]
    assert [problem in line for line in found] == [True] if problem else not found
