"""`python -m trainer plan [OVERRIDES]`: what a config needs on any number of GPUs, worked out without one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..config.composer import compose
from ..errors import ConfigError
from ..launch.outcome import WRONG_CONFIG
from ..schema import Config
from ..schema.parallel import Single

if TYPE_CHECKING:
    from ..parallel.footprint import Footprint, Shapes
    from ..plan.steps import Batches

COLUMNS = ("parameters", "gradients", "optimizer", "buffers", "communication", "activations", "total", "host")


def main(argv: Sequence[str] | None = None) -> int:
    """Print batches, steps, memory per GPU under every engine, and disk per checkpoint. Returns 2 when the config is
    wrong."""
    parser = argparse.ArgumentParser(
        prog="trainer plan",
        description="World size, effective batch, steps, memory per GPU under every engine, and disk per checkpoint; "
        "no GPU and no process group is needed. Launch as planned: launch.nnodes=4 launch.nproc_per_node=8",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("overrides", nargs="*", help="as for train.py")
    args = parser.parse_args(argv)
    try:
        plan = make(args.overrides)
    except ConfigError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return WRONG_CONFIG
    print(json.dumps(plan) if args.json else _text(plan))
    return 0


def make(overrides: Sequence[str]) -> dict[str, Any]:
    """The plan, JSON-able; bytes and counts.

    Raises:
        ConfigError: with every problem of the config.
    """
    config = _config(overrides)
    from ..build.build import build
    from ..plan.disk import checkpoint_bytes
    from ..plan.memory import footprint, shapes
    from ..plan.steps import batches

    nodes, per_node = config.launch.nnodes, config.launch.nproc_per_node or 1
    world = 1 if isinstance(config.parallel, Single) else nodes * per_node
    dataset = build(config.data.train_dataset)
    traced = shapes(config, dataset)
    engines = {"as configured": footprint(config, traced, world, per_node)}
    for option in _options():
        try:
            other = _config([o for o in overrides if not o.startswith("parallel")] + [f"parallel={option}"])
        except ConfigError:  # an engine that does not suit this config or this machine
            continue
        if not isinstance(other.parallel, Single):
            engines[option] = footprint(other, traced, world, per_node)
    counts = batches(config, world, per_node, dataset)
    return _described(config, traced, counts, engines) | {
        "disk": checkpoint_bytes(traced),
        "nnodes": nodes,
        "nproc_per_node": per_node,
    }


def _config(overrides: Sequence[str]) -> Config:
    composition = compose(overrides)
    if composition.problems or composition.config is None:
        raise ConfigError(composition.problems)
    return composition.config


def _options() -> list[str]:
    from ..config.sources import conf_directory

    return sorted(path.stem for path in (conf_directory() / "parallel").glob("*.yaml"))


def _described(config: Config, shapes: Shapes, batches: Batches, engines: dict[str, Footprint]) -> dict[str, Any]:
    counts = [p.numel() for p in shapes.parameters]
    return {
        "parameters": sum(counts),
        "trainable": sum(n for n, p in zip(counts, shapes.parameters, strict=True) if p.requires_grad),
        **asdict(batches),
        "per_device_train_batch_size": config.train.per_device_train_batch_size,
        "gradient_accumulation_steps": config.train.gradient_accumulation_steps,
        "memory": {name: {column: getattr(memory, column) for column in COLUMNS} for name, memory in engines.items()},
        "activations_unknown": shapes.reason,
    }


def _text(plan: dict[str, Any]) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    steps, epoch = plan["max_steps"], plan["steps_per_epoch"]
    lines = [
        f"{plan['parameters']:,} parameters, {plan['trainable']:,} of them trainable",
        f"{plan['world_size']:,} ranks ({plan['nnodes']} x {plan['nproc_per_node']})",
        f"{plan['update_size']:,} samples per update: {plan['per_device_train_batch_size']} x "
        f"{plan['gradient_accumulation_steps']} x {plan['data_world_size']}",
        f"{steps:,} updates" if steps else "updates: until the data ends",
    ]
    if epoch:
        lines[-1] += f", {epoch:,} per epoch of {plan['num_samples']:,} samples"
    table = Table(title="Memory per GPU in a step", title_justify="left")
    table.add_column("parallel=")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, memory in plan["memory"].items():
        table.add_row(name, *[size(memory[column]) for column in COLUMNS], end_section=name == "as configured")
    out = StringIO()
    Console(file=out, width=120).print(table)
    lines.append(out.getvalue().rstrip())
    if plan["activations_unknown"]:
        lines.append(f"activations could not be traced ({plan['activations_unknown']}) and are not in the total")
    lines.append(
        f"disk per checkpoint: {size(plan['disk'])}. Not counted: the CUDA context, fragmentation, the allocator"
    )
    return "\n".join(lines)


def size(count: int | None) -> str:
    """Bytes in words, such as 3.5 MB; `?` for None."""
    if count is None:
        return "?"
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
