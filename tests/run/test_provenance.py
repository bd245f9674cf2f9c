"""Looking at a repository runs nothing that the repository or the environment names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trainer.run import provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit and one change, as the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("one\n")
    (tmp_path / ".gitattributes").write_text("*.txt filter=evil diff=evil\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "file.txt").write_text("two\n")
    return tmp_path


def test_commit_and_changes(repository: Path) -> None:
    found = provenance.git()
    assert len(found["sha"]) == 40
    assert found["dirty"]
    assert "+two" in found["patch"]


@pytest.mark.parametrize(
    "name", ["core.fsmonitor", "filter.evil.clean", "filter.evil.process", "diff.evil.textconv", "diff.external"]
)
@pytest.mark.parametrize("place", ["repository", "environment"])
def test_nothing_runs(repository: Path, name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"touch {repository}/pwned; cat"
    if place == "repository":
        subprocess.run(["git", "config", name, command], check=True)
    else:
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", name)
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", command)
    assert "+two" in provenance.git()["patch"]
    assert not (repository / "pwned").exists()
