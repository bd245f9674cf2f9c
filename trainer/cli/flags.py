"""Flags that this command does not have: Hugging Face's `--learning_rate 3e-4` is answered with the override."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from ..errors import COMMAND_LINE, ConfigError, Problem, closest
from ..schema import huggingface

NEGATED = {"no_cuda": "run.use_cpu=true", "use_cuda": "run.use_cpu=false", "gpus": "launch.nproc_per_node"}
"""Flags of older scripts that are no TrainingArguments' field any more."""


def refuse_unknown(argv: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Refuse flags that ``parser`` does not have.

    Raises:
        ConfigError: with a line for each.
    """
    if problems := list(_unknown(argv, parser)):
        raise ConfigError(problems)


def _unknown(argv: Sequence[str], parser: argparse.ArgumentParser) -> Iterator[Problem]:
    known = {option for action in parser._actions for option in action.option_strings}
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if word == "--":
            return
        if not flag.startswith("--") or any(option.startswith(flag) for option in known):
            continue
        if not equals:
            following = argv[i + 1] if i + 1 < len(argv) else "--"
            value = "true" if following.startswith("-") and not following[1:2].isdigit() else following
        name = flag[2:].replace("-", "_")
        line = word if equals or value == "true" else f"{word} {value}"
        guess, fix = closest(flag, known), _override(name, value)
        guess = None if fix else guess
        what = "is not a flag: settings are KEY=VALUE" if fix else "there is no such flag"
        if guess and equals:
            guess = f"{guess}={value}"
        further = None if guess else fix or "--help lists the flags"
        yield Problem(key=line, origin=COMMAND_LINE, what=what, suggestion=guess, fix=further)


def _override(name: str, value: str) -> str | None:
    """The override for a flag of a Trainer's script."""
    if name in NEGATED:
        return NEGATED[name] if "=" in NEGATED[name] else f"{NEGATED[name]}={value}"
    if name == "optim":
        return f"optim={huggingface.choice_word('optim', value)}"
    if name in ("bf16", "fp16", "tf32") and value.lower() == "true":
        return f"precision={name}"
    answer = huggingface.answer(name, value)
    return answer.suggestion if answer else None
