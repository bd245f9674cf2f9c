"""The verbs of `python -m trainer`: one module per verb, imported when it is called."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword

from .. import __version__

VERBS = {
    "train": "one run, or with -m a sweep: the same as `python train.py`",
    "plan": "batches, steps, memory per GPU and disk of a config on any number of GPUs, without one",
    "import": "another tool's configuration as an experiment: training-arguments, deepspeed or accelerate FILE",
    "export": "a composed config in another tool's words: training-arguments, deepspeed or accelerate [OVERRIDES]",
}
"""Verb -> what it does. The module of that name (import_ for `import`) has `main(argv) -> exit code`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb with the arguments that follow it; its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="trainer",
        description="Experiments composed from small pieces, validated before they cost anything, run on any engine.",
        epilog="verbs:\n" + "\n".join(f"  {verb:<10} {does}" for verb, does in VERBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    parser.add_argument("verb", choices=VERBS, help="VERB --help lists its arguments")
    verb = parser.parse_args(arguments[:1]).verb
    if os.getcwd() not in sys.path:  # a config may name modules of the user's own project
        sys.path.insert(0, os.getcwd())
    code: int = import_module(f".{verb}_" if iskeyword(verb) else f".{verb}", __name__).main(arguments[1:])
    return code
