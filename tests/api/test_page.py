"""docs/api.md is the public face: the same names as `trainer.__all__`, and examples that run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trainer

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_a_section_for_every_name() -> None:
    assert sorted(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == sorted(trainer.__all__)
    assert trainer.__all__ == sorted(trainer.__all__)


@pytest.mark.parametrize("name", trainer.__all__)
def test_every_name_is_there_and_in_an_example(name: str) -> None:
    thing = getattr(trainer, name)
    assert thing.__name__ == name
    assert thing.__doc__
    nodes = [node for code in EXAMPLES for node in ast.walk(ast.parse(code))]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert name in imported or name.lower() in attributes


def test_dir_shows_the_public_names_and_no_more() -> None:
    assert dir(trainer) == trainer.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Trayner'"):
        trainer.Trayner  # noqa: B018


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import trainer; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith("trainer")]
    assert ours == ["trainer"]
    assert not {"torch", "hydra", "omegaconf", "yaml"} & set(done.stdout.split())


def test_composing_imports_no_torch() -> None:
    code = "import sys; from trainer import compose, Run, ConfigError; compose(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in EXAMPLES:
        exec(compile(code, "docs/api.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "completed" in printed
    assert "did you mean parallel=zero3" in printed
    assert "model_context" in printed
