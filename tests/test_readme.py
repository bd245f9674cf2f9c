"""The README says what is true: its commands run, its files exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^ {4}(python (?:train\.py|-m trainer)\b.*?)(?:\s+#.*)?$", re.MULTILINE)
COMMANDS = [(path.name, command) for path in TEXTS for command in COMMAND.findall(path.read_text())]
ELSEWHERE = ("cluster=slurm", "cluster=ray")  # these need a cluster, and have their own tests


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_the_command_runs(tmp_path: Path, name: str, command: str) -> None:
    if any(word in command for word in ELSEWHERE):
        pytest.skip("needs a cluster")
    words = [word for word in command.split()[1:] if not word.startswith("train.max_steps=")]
    if words[0] == "train.py":
        words[0] = str(ROOT / "train.py")
        words.append("train.max_steps=1")
    (tmp_path / "args.json").write_text('{"learning_rate": 0.001, "per_device_train_batch_size": 4}')
    if "experiment=mine" in words:
        (tmp_path / "conf" / "experiment").mkdir(parents=True)
        (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
            "# @package _global_\noptim: {learning_rate: 0.001}\n"
        )
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout or "-o" in words


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("path", TEXTS, ids=[path.name for path in TEXTS])
def test_the_files_exist(path: Path) -> None:
    named = re.findall(r"\b(?:trainer|conf|docs|bench)/[\w/]+(?:\.\w+)?", path.read_text())
    written = {"conf/experiment/mine.yaml", "conf/callbacks/stop.yaml"}  # the reader's own
    missing = [name for name in sorted(set(named) - written) if not (ROOT / name).exists()]
    assert missing == []
