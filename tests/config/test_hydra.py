"""What the project uses of the internals of Hydra and OmegaConf is in one module: a new release is one file's work."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

import trainer

ROOT = Path(trainer.__file__).parent
INTERNALS = ROOT / "config" / "hydra.py"
NODES = ROOT / "config" / "nodes.py"
MODULES = sorted(path for path in (*ROOT.rglob("*.py"), ROOT.parent / "train.py") if path != INTERNALS)

PRIVATE = {
    name
    for cls in (DictConfig, ListConfig, OmegaConf, ConfigLoaderImpl, FileConfigSource, Hydra)
    for name in dir(cls)
    if name.startswith("_") and not name.startswith("__")
}


def private_imports(tree: ast.AST) -> list[str]:
    """Private modules and names of Hydra and OmegaConf that are imported or named in a text."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        found += [name for name in names if re.match(r"(hydra|omegaconf)\.(.*\.)?_(?!_)", name)]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_no_other_module_imports_internals(path: Path) -> None:
    assert private_imports(ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path != NODES], ids=lambda p: str(p.relative_to(ROOT.parent))
)
def test_no_other_module_reads_private_attributes(path: Path) -> None:
    tree = ast.parse(path.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in PRIVATE - own]
    assert [ast.unparse(node) for node in used] == []


def test_the_one_module_is_found_out() -> None:
    assert "hydra._internal.defaults_list" in private_imports(ast.parse(INTERNALS.read_text()))
    assert private_imports(ast.parse("def f():\n    from hydra.core._plugins import x")) == ["hydra.core._plugins.x"]
