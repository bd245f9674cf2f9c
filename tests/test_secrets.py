"""No command prints a secret."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.cli.train import main
from trainer.config.composer import Composition
from trainer.config.trust import typed_secrets
from trainer.errors import Problem
from trainer.secrets import mask_text


@pytest.mark.parametrize(
    "override",
    [
        "hub.hub_tokn=hf_abcdefgh",
        "hub.hub_token={a:hf_abcdefgh}",
        "model.api_key=hf_abcdefgh",
        "task.password=hf_abcdefgh",
        "run.projct=https://me:hf_abcdefgh@host/x",
        "checkpoint.resume_from_checkpoint=https://me:hf_abcdefgh@host/x",
    ],
)
def test_an_error_line_shows_no_secret(compose: Callable[..., Composition], override: str) -> None:
    lines = [str(problem) for problem in compose(override).problems]
    assert lines
    assert not any("hf_abcdefgh" in line for line in lines), lines


def test_a_printed_config_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--cfg", "job", "--resolve", "hub.hub_token=hf_abcdefgh", "run.project=https://me:hf_secret@host"])
    printed = capsys.readouterr().out
    assert "hub_token: '***'" in printed or "hub_token: ***" in printed
    assert "https://me:***@host" in printed
    assert "hf_" not in printed
    assert "max_steps: " in printed
    main(["--cfg", "job"])
    assert "hub_token: null" in capsys.readouterr().out


def test_words_that_are_no_secrets_stay() -> None:
    for text in ("eos_token: </s>", "num_tokens=3", "password: null", "needs tokens=true", "tokenizer: gpt2"):
        assert mask_text(text) == text
    assert str(Problem(key="train.max_steps", value=3, what="is wrong")) == "train.max_steps=3 (default): is wrong"


def test_a_typed_secret_is_answered_with_its_variable() -> None:
    (line,) = typed_secrets(["train.max_steps=3", "hub.hub_token=hf_abcdefgh", "hub.hub_token=null", "optim=sgd"])
    assert line.startswith("hub.hub_token=*** (command line): ")
    assert line.endswith("fix: HF_TOKEN=... in the environment instead")
