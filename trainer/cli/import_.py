"""`python -m trainer import KIND FILE`: another tool's configuration as an experiment of ours."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config.files import shown
from ..errors import ConfigError
from ..launch.outcome import WRONG_CONFIG

if TYPE_CHECKING:
    from ..interchange.experiment import Experiment


def main(argv: Sequence[str]) -> int:
    """The experiment goes to stdout or FILE, what it cannot carry to stderr; 2 when it would not run."""
    parser = argparse.ArgumentParser(
        prog="trainer import",
        description="Turn another tool's configuration into an experiment: only what differs from the defaults.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    kind = kinds.add_parser(
        "training-arguments",
        help="Hugging Face's TrainingArguments, 4.x or 5.x: JSON, or a call in a Python script",
        description="JSON (as to_json_string() and to_dict() give it, or the names you set), or a .py file that calls"
        " TrainingArguments(...) or Seq2SeqTrainingArguments(...) with literals; the script is not run.",
    )
    kind.add_argument("file", type=Path, metavar="FILE")
    kind.add_argument("-o", "--output", type=Path, metavar="conf/experiment/NAME.yaml", help="default: stdout")
    kind.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    kind.add_argument("--line", type=int, metavar="N", help="which of a script's calls, by its line")
    for name, words in (("deepspeed", "a DeepSpeed JSON"), ("accelerate", "a YAML as `accelerate config` writes it")):
        other = kinds.add_parser(name, help=words)
        other.add_argument("file", type=Path, metavar="FILE")
        other.add_argument("-o", "--output", type=Path, metavar="conf/experiment/NAME.yaml", help="default: stdout")
        other.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    args = parser.parse_args(argv)
    if args.output is not None and args.output.exists() and not args.overwrite:
        print(f"{args.output}: is there already; --overwrite replaces it", file=sys.stderr)
        return WRONG_CONFIG
    try:
        return _training_arguments(args) if args.kind == "training-arguments" else _engine(args)
    except ConfigError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return WRONG_CONFIG
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return WRONG_CONFIG


def _training_arguments(args: argparse.Namespace) -> int:
    from ..interchange.huggingface import source
    from ..interchange.huggingface.incoming import translate

    given = source.read(args.file, args.line)
    result = translate(given.values)
    result.remarks[:0] = given.remarks
    return _finish(args, result, "TrainingArguments")


def _engine(args: argparse.Namespace) -> int:
    from ..interchange import accelerate, deepspeed

    if args.kind == "deepspeed":
        return _finish(args, deepspeed.incoming(args.file), "DeepSpeed")
    return _finish(args, accelerate.incoming(args.file), "Accelerate")


def _finish(args: argparse.Namespace, result: Experiment, name: str) -> int:
    from ..interchange import experiment

    text = experiment.to_yaml(result, f"Imported from {shown(args.file)}: {name}, in our words.")
    for remark in result.remarks:
        print(f"not carried as it is: {remark}", file=sys.stderr)
    if args.output is None:
        print(text, end="")
    else:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        part = args.output.with_name(f".{args.output.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8")
        part.replace(args.output)
    wrong = experiment.problems(text, str(args.output or "the experiment"))
    for line in dict.fromkeys(map(str, wrong)):
        print(line, file=sys.stderr)
    return WRONG_CONFIG if wrong else 0
