"""Ranks start, end together, and say in one line what went wrong. Real runs, by the command a user types."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODEL = """
import os, signal, sys, time
from torch import nn

class Net(nn.Module):
    def __init__(self, fault="", rank="1", at=3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.fault, self.mine, self.at, self.calls = fault, os.environ.get("RANK", "0") == rank, at, 0

    def forward(self, x):
        self.calls += 1
        time.sleep(0.02)
        if self.mine and self.calls == self.at:
            if self.fault == "raise":
                raise ValueError("no\\ngood")
            if self.fault == "exit":
                os._exit(0)
            if self.fault:
                os.kill(os.getpid(), getattr(signal, self.fault))
        return self.body(x)
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "faulty.py").write_text(MODEL)
    yield tmp_path
    left = [p for p in Path("/proc").glob("[0-9]*") if _cwd(p) == tmp_path]
    assert not left, "a process is left running"


def _cwd(process: Path) -> Path | None:
    try:
        return (process / "cwd").resolve() if (process / "stat").read_text().split()[2] != "Z" else None
    except OSError:
        return None


def command(*overrides: str, steps: int = 6, directory: str = "run", fault: str = "") -> list[str]:
    return [
        *(str(ROOT / "train.py"), "experiment=digits", "parallel=ddp", "launch.nproc_per_node=2"),
        *(f"hydra.run.dir={directory}", "logging=none", "evaluation.eval_strategy=no", f"train.max_steps={steps}"),
        *("model={_target_: faulty.Net, fault: '" + fault + "'}", *overrides),
    ]


def start(place: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    variables = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")} | environment
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=place,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    with start(place, *arguments, **environment) as process:
        try:
            _, errors = process.communicate(timeout=90)
        finally:
            process.kill()
    return process.returncode, errors


def manifest(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "run" / "manifest.json").read_text())
    return found


def test_two_ranks(place: Path) -> None:
    code, errors = run(place, *command())
    assert (code, errors) == (0, "")
    assert manifest(place)["status"] == "completed"
    assert manifest(place)["world_size"] == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [("raise", "ValueError: no good"), ("exit", "exited with code 0 before its end"), ("SIGKILL", "killed by SIGKILL")],
)
def test_the_failure_that_began_it_is_reported(place: Path, fault: str, says: str) -> None:
    code, errors = run(place, *command(fault=fault))
    assert code == 1
    assert errors.splitlines() == [f"error: rank 1: {says}; traceback: {place}/run/train.log"]
    assert manifest(place)["status"] == "failed"
    assert manifest(place)["error"] == f"rank 1: {says}"
    assert (fault == "raise") == ("Traceback" in (place / "run" / "train.log").read_text())


@pytest.mark.parametrize("to", ["launcher", "one rank"])
def test_sigterm_saves_and_exits_75(place: Path, to: str) -> None:
    if to == "one rank":
        code, _ = run(place, *command(steps=500, fault="SIGTERM"))
        assert manifest(place)["status"] == "preempted"
    else:
        process = start(place, *command("checkpoint.save_steps=2", steps=5000))
        _wait_for(place / "run" / "checkpoints" / "checkpoint-2")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        code = process.returncode
        assert errors == ""
    assert code == 75
    assert list((place / "run" / "checkpoints").glob("checkpoint-*"))


def test_ranks_do_not_outlive_a_killed_launcher(place: Path) -> None:
    process = start(place, *command("checkpoint.save_steps=2", steps=5000))
    _wait_for(place / "run" / "checkpoints" / "checkpoint-2")
    process.kill()
    process.communicate(timeout=60)
    time.sleep(1)  # the fixture looks


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_torchrun_composes_once(place: Path) -> None:
    code, errors = run(place, *TORCHRUN, *command(directory="runs/${now:%f}"), OMP_NUM_THREADS="1")
    assert code == 0, errors
    (directory,) = (place / "runs").iterdir()
    found = json.loads((directory / "manifest.json").read_text())
    assert (found["status"], found["world_size"]) == ("completed", 2)


def test_torchrun_says_once_what_is_wrong(place: Path) -> None:
    code, errors = run(place, *TORCHRUN, *command("optim.learning_rate=-1"), OMP_NUM_THREADS="1")
    assert code == 1  # torchrun flattens exit codes
    assert errors.count("optim.learning_rate=-1") == 1
    assert "exitcode  : 2" in errors
    assert not (place / "run").exists()


def test_torchrun_reports_the_rank_that_failed(place: Path) -> None:
    code, errors = run(place, *TORCHRUN, *command(fault="raise"), OMP_NUM_THREADS="1")
    assert code == 1
    assert f"error: rank 1: ValueError: no good; traceback: {place}/run/train.log" in errors.splitlines()
    assert manifest(place)["status"] == "failed"
    assert manifest(place)["error"] == "rank 1: ValueError: no good"
