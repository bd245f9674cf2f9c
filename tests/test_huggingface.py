"""Every TrainingArguments name is answered: it has one home, is a choice, or is remarked upon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.schema import huggingface
from trainer.schema.tree import leaves

NAMES = json.loads((Path(__file__).parent / "golden" / "training_arguments.json").read_text())
"""Names of TrainingArguments 5.23, of older releases, and of Hugging Face's documentation: name -> kind."""

GROUPS = {"optim", "fsdp", "deepspeed"}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_answered(name: str) -> None:
    if name in {"optim"}:  # is a group of ours under the same name
        return
    answer = huggingface.answer(name, 1)
    assert answer is not None
    assert answer.suggestion or answer.what


def test_homes_are_in_the_schema_or_said_to_be_missing() -> None:
    for name, home in huggingface.HOMES.items():
        answer = huggingface.answer(name, 1)
        assert answer
        if home in leaves():
            assert answer.suggestion == f"{home}=1"
        elif name not in huggingface.REMARKS:
            assert "not available yet" in str(answer.what)


def test_every_leaf_of_the_contract_that_exists_has_its_home() -> None:
    """A field of a section that carries a TrainingArguments name stands where HOMES says."""
    for key in leaves():
        section, leaf = key.split(".")[0], key.split(".")[-1]
        home = huggingface.HOMES.get(leaf)
        if home is not None and not key.startswith("logging.reporters."):
            assert home.split(".")[0] == section, (key, home)


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        (("lr", "1e-4"), "optim.learning_rate=1e-4"),
        (("optimizer", "adamw_torch"), "optim=adamw"),
        (("lr_scheduler_type", "cosine"), "scheduler=cosine"),
        (("report_to", "wandb"), "logging=wandb"),
        (("report_to", ["wandb", "tensorboard"]), "logging=[wandb,tensorboard]"),
        (("fsdp", True), "parallel=fsdp"),
        (("evaluation_strategy", "steps"), "evaluation.eval_strategy=steps"),
    ],
)
def test_suggestions(typed: tuple[str, object], suggestion: str) -> None:
    answer = huggingface.answer(*typed)
    assert answer
    assert answer.suggestion == suggestion


def test_the_installed_transformers_has_no_name_we_do_not_know() -> None:
    transformers = pytest.importorskip("transformers")
    from dataclasses import fields

    for field in fields(transformers.TrainingArguments):
        if field.name.startswith("_"):
            continue
        assert field.name == "optim" or huggingface.answer(field.name, 1), field.name
