"""Reads TrainingArguments out of a JSON file, or out of a Python script without running it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config.files import shown
from ...errors import ConfigError, Problem
from ...schema.huggingface import ENUMS

CLASSES = ("TrainingArguments", "Seq2SeqTrainingArguments")


@dataclass(slots=True)
class Source:
    """Names and values as they were written."""

    values: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What could not be read, a line each."""


def read(path: Path, line: int | None = None) -> Source:
    """The arguments in ``path``; ``line`` chooses one of a script's calls.

    Raises:
        ConfigError: there are none that can be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        fix = "print(args.to_json_string()) in the program that has it"
        raise _refused(path, "is not UTF-8 text (training_args.bin is a pickle, which is not opened)", fix) from None
    return _script(path, text, line) if path.suffix == ".py" else _json(path, text)


def _refused(path: Path, what: str, fix: str | None = None) -> ConfigError:
    return ConfigError([Problem(key=path.name, origin=shown(path), what=what, fix=fix)])


def _json(path: Path, text: str) -> Source:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise _refused(path, "does not hold a JSON object of names and values")
    return Source({name: _words(value) for name, value in values.items()})


def _words(value: Any) -> Any:
    """`IntervalStrategy.STEPS`, as a repr shows an enum's member, becomes `steps`."""
    if isinstance(value, list):
        return [_words(item) for item in value]
    if not isinstance(value, str):
        return value
    kind, dot, member = value.partition(".")
    known = kind.endswith(("Strategy", "Type", "Names", "Option"))
    return ENUMS.get(member, member.lower()) if dot and known and kind.isidentifier() and member.isupper() else value


def _script(path: Path, text: str, line: int | None) -> Source:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise _refused(path, f"is not Python: {error}") from None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) in CLASSES]
    lines = ", ".join(str(call.lineno) for call in calls)
    if line is not None:
        calls = [call for call in calls if call.lineno == line]
    if not calls:
        what = f"calls none of {', '.join(CLASSES)}" + (f" at line {line}, but at {lines}" if lines else "")
        raise _refused(path, what)
    if len(calls) > 1:
        raise _refused(path, f"calls TrainingArguments at lines {lines}", f"--line {calls[0].lineno}")
    source = Source()
    for name, node in _keywords(calls[0]):
        try:
            source.values[name] = _literal(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            source.remarks.append(f"{name}={ast.unparse(node)} ({shown(path)}:{node.lineno}): is not a literal")
    return source


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _keywords(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    for index, argument in enumerate(call.args):
        yield ("output_dir" if index == 0 and not isinstance(argument, ast.Starred) else "*"), argument
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg, keyword.value
        elif isinstance(keyword.value, ast.Dict) and all(isinstance(k, ast.Constant) for k in keyword.value.keys):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                assert isinstance(key, ast.Constant)
                yield str(key.value), value
        else:
            yield "**", keyword.value


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Attribute):
        member = ".".join(ast.unparse(node).removesuffix(".value").split(".")[-2:])
        if (word := _words(member)) != member:
            return word
    return json.loads(json.dumps(ast.literal_eval(node)))
