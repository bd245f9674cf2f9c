"""Sweeps, as typed: trials of their own, none of which can end another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.run import directory as run_directory

TRAIN = Path(__file__).parents[2] / "train.py"
TINY = [
    "experiment=null",
    "model=mlp",
    "model.sizes=[4,3]",
    "task=regression",
    "data.train_dataset._target_=mine.Data",
    "logging=none",
    "train.max_steps=3",
    "logging.logging_steps=1",
    "optim=sgd",
]

MINE = """
import os, signal, sys, time, torch

class Data(torch.utils.data.Dataset):
    def __init__(self, how="well"):
        self.how = how
    def __len__(self):
        return 32
    def __getitem__(self, i):
        match self.how:
            case "raise": raise ValueError("on purpose")
            case "exit": sys.exit(0)
            case "_exit": os._exit(0)
            case "segfault": os.kill(os.getpid(), signal.SIGSEGV)
            case "kill": os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                open("started", "w").close()
                time.sleep(0.1)
        return torch.full((4,), float(i)) / 32, torch.full((3,), float(i)) / 32
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(TRAIN), *TINY, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def losses(directory: Path) -> list[str]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [float(r["loss"]).hex() for r in records if "loss" in r]


@pytest.mark.slow
def test_no_trial_ends_another(project: Path) -> None:
    ways = ["raise", "exit", "_exit", "segfault", "kill", "well"]
    arguments = command("-m", f"data.train_dataset.how={','.join(ways)}", "hydra.sweep.dir=s")
    done = subprocess.run(arguments, cwd=project, capture_output=True, text=True, timeout=250, env=environment())
    assert done.returncode == 1, done.stderr
    status = [json.loads((project / "s" / str(n) / "manifest.json").read_text())["status"] for n in range(len(ways))]
    assert status == ["failed"] * 5 + ["completed"]
    failures = [line for line in done.stderr.splitlines() if line.startswith("trial ")]
    assert [line.split(" (")[0] for line in failures] == [f"trial {n}" for n in range(5)]
    again = subprocess.run(arguments, cwd=project, capture_output=True, text=True, timeout=60, env=environment())
    assert again.returncode == 2
    assert "holds a run already" in again.stderr


@pytest.mark.slow
def test_a_trial_equals_the_same_run_alone(project: Path) -> None:
    sweep = command("-m", "optim.learning_rate=0.1,0.2", "hydra.sweep.dir=s")
    subprocess.run(sweep, cwd=project, check=True, capture_output=True, timeout=120, env=environment())
    alone = command("optim.learning_rate=0.2", "hydra.run.dir=alone")
    subprocess.run(alone, cwd=project, check=True, capture_output=True, timeout=120, env=environment())
    assert losses(project / "s" / "1") == losses(project / "alone")
    assert losses(project / "s" / "0") != losses(project / "alone")
    assert json.loads((project / "s/1/manifest.json").read_text())["argv"] == sweep[1:]
    assert (project / "s/1/model/model.safetensors").read_bytes() == (
        project / "alone/model/model.safetensors"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_the_sweep_with_a_checkpoint(project: Path, number: int, code: int) -> None:
    arguments = command(
        "-m", "run.seed=1,2", "hydra.sweep.dir=s", "data.train_dataset.how=slow", "train.max_steps=1000"
    )
    with subprocess.Popen(arguments, cwd=project, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (project / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert list((project / "s/0/checkpoints").glob("checkpoint-*"))
    assert not (project / "s/1").exists()


def test_params_of_the_config_are_swept(project: Path) -> None:
    """`sweep=learning_rate` fills hydra.sweeper.params; wrong values in it are found before anything runs."""
    (project / "conf/sweep").mkdir(parents=True)
    (project / "conf/sweep/bad.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      optim.learning_rate: 1,-1,-2\n"
    )
    done = subprocess.run(
        command("-m", "sweep=bad"), cwd=project, capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 2
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == [
        "optim.learning_rate=-1",
        "optim.learning_rate=-2",
    ]


def test_a_trial_that_another_process_runs_is_left_alone(project: Path) -> None:
    manifests = [project / "sweep" / number / "manifest.json" for number in "01"]
    for manifest in manifests:
        manifest.parent.mkdir(parents=True)
        manifest.write_text('{"status": "running"}')
        run_directory.hold(manifest.parent)
    arguments = command("-m", "run.seed=1,2", "hydra.sweep.dir=sweep", "checkpoint.resume_from_checkpoint=auto")
    done = subprocess.run(arguments, cwd=project, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 1
    assert done.stderr.count(f"holds a run that is running now: process {os.getpid()} on") == 2
    assert [manifest.read_text() for manifest in manifests] == ['{"status": "running"}'] * 2
