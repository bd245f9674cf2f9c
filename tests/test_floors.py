"""Imports point down only, there is no circle anywhere, and what the config side imports stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer

ROOT = Path(trainer.__file__).parent

FLOORS = [
    {"schema", "errors", "secrets"},
    {"config", "build", "distributed", "rng", "state", "tree", "worker", "run"},
    {
        *("data", "model", "task", "optim", "scheduler", "precision", "memory", "compile"),
        *("callbacks", "logging", "checkpoint", "parallel", "evaluation", "events", "hub"),
    },
    {"train"},
    {"launch"},
    {"cli", "sweep", "cluster", "plan", "interchange", "api", "__init__", "__main__"},
]
"""The rooms of each floor, the lowest first. Every module belongs to one by the first part of its name."""

ARROWS = {
    "schema": {"errors"},
    "errors": {"secrets"},
    "config": {"build"},
    "run": {"config"},
    "parallel": {"precision", "optim", "checkpoint"},
    "evaluation": {"data", "task", "precision", "checkpoint"},
    "events": {"callbacks", "logging"},
    "callbacks": {"data", "task", "parallel"},
    "hub": {"callbacks", "checkpoint", "parallel"},
    "cli": {"__init__", "plan", "interchange", "sweep", "cluster"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
"""The only imports from one room to another on the same floor."""


def modules() -> dict[str, Path]:
    """Dotted names of all modules, and their files."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("trainer", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The modules of ours that one imports anywhere: in functions and for type checkers too."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            targets = [m if (m := f"{module}.{alias.name}") in MODULES else module for alias in node.names]
        yield from (target for target in targets if target in MODULES and target != name)


def room(name: str) -> str:
    """`parallel` for `trainer.parallel.fsdp`."""
    return name.split(".")[1] if "." in name else "__init__"


def floor(name: str) -> int:
    """The floor that a room is on."""
    found = [number for number, rooms in enumerate(FLOORS) if room(name) in rooms]
    assert found, f"{name} is on no floor: name its room in FLOORS, or move it into one"
    return found[0]


def circles(names: set[str]) -> list[list[str]]:
    """Groups of modules that import each other, by any way round (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        path.append(name)
        for target in imports(name):
            if target not in order:
                visit(target)
            if target in path:
                low[name] = min(low[name], low[target])
        if low[name] == order[name]:
            group = path[path.index(name) :]
            del path[path.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(names):
        if name not in order:
            visit(name)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    others = {target for target in imports(name) if room(target) != room(name)}
    above = {target for target in others if floor(target) > floor(name)}
    assert not above, f"{name} is on floor {floor(name)}"
    beside = {t for t in others if floor(t) == floor(name) and room(t) not in ARROWS.get(room(name), ())}
    assert not beside, f"{name} may not import these rooms of its own floor"


def test_there_is_no_circle() -> None:
    assert circles(set(MODULES)) == []


def test_every_room_is_named_once() -> None:
    rooms = [name for names in FLOORS for name in names]
    assert len(rooms) == len(set(rooms))
    assert {room(name) for name in MODULES} == set(rooms)


def test_the_page_has_the_same_floors() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d) \| (.*) \|$", page, re.MULTILINE))
    told = {int(number): set(rooms.split(", ")) for number, rooms in rows.items()}
    assert told == {number: {r for r in rooms if not r.startswith("__")} for number, rooms in enumerate(FLOORS)}


HEAVY = ("torch", "deepspeed", "wandb", "transformers", "rich", "numpy", "torchmetrics")


@pytest.mark.parametrize(
    "module",
    ["train", "trainer", "trainer.config.composer", "trainer.build.policy", "trainer.sweep", "trainer.cli.train"],
)
def test_the_config_side_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == []
