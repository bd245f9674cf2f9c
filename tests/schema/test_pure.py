"""The schema does no I/O: it opens no file, looks at no directory, starts nothing and reads no environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer.schema

ROOT = Path(trainer.schema.__file__).parent

LIBRARIES = {
    *("__future__", "collections", "dataclasses", "enum", "functools", "typing", "types"),
    *("json", "math", "re"),
    "omegaconf",
}
"""What the schema may import beside itself and trainer.errors. None of them touches the machine in the names below."""
NAMES = {"importlib": {"import_module"}}
"""Of these only some names: import_module loads the schema's own classes."""
CALLS = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}


def impure(text: str) -> Iterator[str]:
    """Imports and calls that could touch the machine."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] not in LIBRARIES)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            root = str(node.module).split(".")[0]
            named = {alias.name for alias in node.names}
            if root not in LIBRARIES and not named <= NAMES.get(str(node.module), set()):
                yield f"{node.module}.{{{','.join(sorted(named))}}}"
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
            if name in CALLS or name in ("OmegaConf.load", "OmegaConf.save"):
                yield name


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_schema_does_no_io(path: Path) -> None:
    assert list(impure(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    [
        "from pathlib import Path",
        "import os",
        "import os.path",
        "import subprocess as s",
        "from glob import glob",
        "from importlib.util import find_spec",
        "def f():\n    return open('x')",
        "from omegaconf import OmegaConf\nOmegaConf.load('x')",
    ],
)
def test_io_is_found(text: str) -> None:
    assert list(impure(text))
