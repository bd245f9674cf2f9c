"""Objects passed from Python: a config names them, checks accept the name, and only the caller can supply them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from trainer.build.build import build
from trainer.build.calls import check_calls
from trainer.build.given import given_node
from trainer.build.policy import refusal
from trainer.config.composer import Composition
from trainer.errors import ConfigError

Compose = Callable[..., Composition]
NODE = "{_target_:trainer.build.given.Given,object:my.module.Net}"


@pytest.mark.parametrize(
    "key",
    [
        *("model", "task", "data.train_dataset", "data.eval_dataset", "data.eval_dataset.hard", "data.predict_dataset"),
        *("callbacks.mine", "logging.reporters.mine"),
    ],
)
def test_an_object_from_python_fills_any_slot(compose: Compose, key: str) -> None:
    composition = compose(f"{key}={NODE}", "evaluation.eval_strategy=no")
    assert composition.problems == []
    assert composition.config is not None
    assert list(check_calls(composition.config)) == []


def test_it_cannot_be_built_from_the_config(compose: Compose) -> None:
    model = nn.Linear(2, 1)
    node = given_node(model, "model")
    words = ",".join(f"{key}:{value}" for key, value in node.items())
    config = compose(f"model={{{words}}}").config
    assert config is not None
    assert config.model == node
    with pytest.raises(ConfigError) as raised:
        build(config.model)
    assert raised.value.lines() == [
        "model (Python): the object torch.nn.modules.linear.Linear was passed from Python and has to be passed again; "
        "fix: Trainer(..., model=...)"
    ]


def test_a_function_is_named_itself() -> None:
    assert given_node(nn.functional.mse_loss, "task")["object"] == "torch.nn.functional.mse_loss"


def test_only_the_placeholder_is_allowed_of_its_package() -> None:
    assert refusal("trainer.build.given.Given") is None
    assert refusal("trainer.build.given.given_node")
    assert refusal("trainer.build.given.Given.mro")
