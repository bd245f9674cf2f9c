"""Imports point down only, and what the config side imports stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trainer

ROOT = Path(trainer.__file__).parent

FLOORS: list[set[str]] = [
    {"schema", "problems"},
    {
        "build", "state", "events", "distributed", "compose", "config_sources", "assign", "origins", "hydra_settings",
        "choices", "examine", "inline",
        "yaml_files", "targets", "calls", "durable", "exact_json", "failpoints", "rng", "run_directory", "devices",
    },
]  # fmt: skip
"""The lowest floors by name; `floor` gives the others."""

TOP = {"cli", "sweep", "cluster", "commands", "__main__", "help"}
FLOOR_4 = {"runner", "keeping", "launch", "resume"}


def floor(module: str) -> int:
    """The floor of `trainer.<module>`."""
    for number, names in enumerate(FLOORS):
        if module in names:
            return number
    return 5 if module in TOP else 4 if module in FLOOR_4 else 3 if module == "loop" else 2


def imports(path: Path) -> set[str]:
    """First segments below `trainer` that a file imports while the program runs (not for type checkers only)."""
    package = ["trainer", *path.relative_to(ROOT).parts[:-1]]
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for n in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names: list[list[str]] = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        found |= {name[1] for name in names if name[0] == "trainer" and len(name) > 1}
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    above = {name for name in imports(path) if name != own and floor(name) > floor(own) and (ROOT / name).exists()}
    above |= {n for n in imports(path) if n != own and floor(n) > floor(own) and (ROOT / f"{n}.py").exists()}
    assert not above, f"{own} is on floor {floor(own)}"


HEAVY = ("torch", "deepspeed", "wandb", "transformers", "rich", "numpy", "torchmetrics")


@pytest.mark.parametrize(
    "module", ["train", "trainer.compose", "trainer.targets", "trainer.sweep", "trainer.commands", "trainer.cli"]
)
def test_the_config_side_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == []
