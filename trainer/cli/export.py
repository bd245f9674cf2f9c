"""`python -m trainer export KIND [OVERRIDES]`: a composed config in another tool's words."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml

from ..errors import ConfigError
from ..launch.outcome import WRONG_CONFIG

if TYPE_CHECKING:
    from ..config.origins import Origins
    from ..schema import Config


def main(argv: Sequence[str]) -> int:
    """The other tool's file goes to stdout, what has no place in it to stderr."""
    parser = argparse.ArgumentParser(prog="trainer export", description="A composed config in another tool's words.")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    kind = kinds.add_parser(
        "training-arguments",
        help="Hugging Face's TrainingArguments, JSON with the names of 5.23",
        description="JSON for TrainingArguments(**json) and HfArgumentParser: what differs from its defaults, and what"
        " `import training-arguments` would otherwise take for ours.",
    )
    kind.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="as for train.py")
    kind.add_argument("--all", action="store_true", help="every field, defaults too")
    kind.add_argument("--config-name", "-cn", default=None, help="as for train.py")
    kind.add_argument("--config-dir", "-cd", default=None, help="as for train.py")
    for name, words in (
        ("deepspeed", "a DeepSpeed JSON, without 'auto'"),
        ("accelerate", "a YAML for accelerate launch"),
    ):
        other = kinds.add_parser(name, help=words)
        other.add_argument("overrides", nargs="*", metavar="OVERRIDES", help="as for train.py")
        other.add_argument("--config-name", "-cn", default=None, help="as for train.py")
        other.add_argument("--config-dir", "-cd", default=None, help="as for train.py")
    return _export(parser.parse_args(argv))


def _export(args: argparse.Namespace) -> int:
    from ..config.composer import CONFIG_NAME, compose

    found = compose(args.overrides, config_name=args.config_name or CONFIG_NAME, config_dir=args.config_dir)
    if found.problems or found.config is None:
        print("\n".join(dict.fromkeys(map(str, found.problems))), file=sys.stderr)
        return WRONG_CONFIG
    if args.kind != "training-arguments":
        return _engine(args.kind, found.config, found.origins)
    from ..interchange.huggingface.outgoing import Outgoing

    result = Outgoing(found.config, found.cfg)
    for remark in result.remarks:
        print(f"not exported: {remark}", file=sys.stderr)
    print(json.dumps(result.all() if args.all else result.values, indent=2))
    return 0


def _engine(kind: str, config: Config, origins: Origins) -> int:
    from ..interchange import accelerate, deepspeed

    try:
        content, remarks = (deepspeed if kind == "deepspeed" else accelerate).outgoing(config)
    except ConfigError as error:
        print("\n".join(ConfigError(origins.fill(error.problems)).lines()), file=sys.stderr)
        return WRONG_CONFIG
    for remark in remarks:
        print(f"not exported: {remark}", file=sys.stderr)
    text = json.dumps(content, indent=2) if kind == "deepspeed" else yaml.safe_dump(content).rstrip()
    print(text)
    return 0
