"""Every TrainingArguments name is answered: it has one home that exists, is a choice, or a recorded reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path

import pytest

from trainer.config.composer import Composition
from trainer.interchange.huggingface.translation import options
from trainer.schema import huggingface
from trainer.schema.tree import leaves, sections

NAMES = json.loads((Path(__file__).parents[1] / "golden" / "training_arguments.json").read_text())
"""Names of TrainingArguments 5.23, of older releases, and of Hugging Face's documentation: name -> kind."""

GROUPS = {"optim"}
"""Is a group of ours under the same name."""

WAYS = (huggingface.HOMES, huggingface.RENAMED, huggingface.CHOICES, huggingface.PARALLEL, huggingface.REMARKS)


def test_all_names_are_here() -> None:
    assert len(NAMES) == 163


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_one_home_or_one_reason(name: str) -> None:
    """An optimizer's or FSDP's old name may be both renamed and remarked upon: the remark is what is said."""
    if name in GROUPS:
        return
    ways = [way for way in WAYS if name in way]
    assert len(ways) == 1, ways
    answer = huggingface.answer(name, 1)
    assert answer
    assert answer.suggestion or answer.what


def test_every_home_is_in_the_schema() -> None:
    homes = huggingface.HOMES | huggingface.RENAMED
    # a chosen reporter's name is the user's: logging.reporters.NAME
    assert not [(name, home) for name, home in homes.items() if home not in leaves()]


def test_every_hint_is_a_key_or_a_choice(compose: Callable[..., Composition]) -> None:
    """On the command line, all at once: each name's problem suggests a key that exists, or says why not."""
    typed = {name: "x" for name in NAMES if name not in GROUPS}
    problems = {p.key: p for p in compose(*(f"{name}={value}" for name, value in typed.items())).problems}
    for name in typed:
        problem = problems[name]
        if problem.suggestion is None:
            assert problem.what == huggingface.REMARKS[name]
            continue
        key = problem.suggestion.split("=")[0]
        assert (
            key in leaves()
            or key in huggingface.CHOICES.values()
            or problem.suggestion in huggingface.PARALLEL.values()
        )
        assert problem.origin == "command line"


def test_every_choice_that_is_suggested_exists() -> None:
    for suggestion in huggingface.PARALLEL.values():
        group, option = suggestion.split("=")
        assert option in options(group)
    for word, option in huggingface.OPTIMIZERS.items():
        assert option in options("optim"), word
    for word in huggingface.OPTIMIZER_NAMES:
        assert huggingface.OPTIMIZERS.get(word, word) in options("optim"), word


def test_every_leaf_of_the_contract_that_exists_has_its_home() -> None:
    """A field of a section that carries a TrainingArguments name stands where HOMES says."""
    for key in leaves():
        section, leaf = key.split(".")[0], key.split(".")[-1]
        home = huggingface.HOMES.get(leaf)
        if home is not None and not key.startswith(("logging.reporters.", "optim.warmup_steps")):
            assert home.split(".")[0] == section or section not in sections(), (key, home)


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


def test_the_fields_and_defaults_are_those_of_the_installed_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = {}
    for field in fields(transformers.TrainingArguments):
        if field.init:
            default = field.default_factory() if field.default is MISSING else field.default
            theirs[field.name] = default.value if isinstance(default, Enum) else default
    assert theirs == huggingface.DEFAULTS


def test_the_optimizers_and_schedulers_are_those_of_the_installed_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers import SchedulerType
    from transformers.training_args import OptimizerNames

    assert {name.value for name in OptimizerNames} == set(huggingface.OPTIMIZER_NAMES)
    assert {name.value for name in SchedulerType} <= set(options("scheduler"))
    for kind in (OptimizerNames, SchedulerType):
        for member in kind:
            assert huggingface.ENUMS.get(member.name, member.name.lower()) == member.value
