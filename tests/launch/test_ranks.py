"""Ranks start, end together, and say in one line what went wrong. Real runs, by the command a user types."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import free_port
from trainer.errors import ConfigError
from trainer.run import directory as run_directory

ROOT = Path(__file__).parents[2]
HOST = socket.gethostname()
MODEL = """
import os, signal, sys, time
from torch import nn

class Net(nn.Module):
    def __init__(self, fault="", rank="1", at=3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.fault, self.mine, self.at, self.calls = fault, os.environ.get("RANK", "0") == rank, at, 0
        if fault.startswith("once "):  # a file tells that it happened
            self.fault = "" if os.path.exists("happened") else fault[5:]

    def forward(self, x):
        self.calls += 1
        time.sleep(0.02)
        if self.mine and self.calls == self.at:
            open("happened", "w").close()
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
            _, errors = process.communicate(timeout=150)
        finally:
            process.kill()
    return process.returncode, errors


def manifest(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "run" / "manifest.json").read_text())
    return found


@pytest.mark.parametrize(("fault", "says"), [("raise", "ValueError: no good"), ("SIGKILL", "killed by SIGKILL")])
def test_the_failure_that_began_it_is_reported(place: Path, fault: str, says: str) -> None:
    code, errors = run(place, *command(fault=fault))
    assert code == 1
    assert errors.splitlines() == [f"error: rank 1 on {HOST}: {says}; traceback: {place}/run/train.log"]
    assert manifest(place)["status"] == "failed"
    assert manifest(place)["error"] == f"rank 1 on {HOST}: {says}"
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
        assert manifest(place)["world_size"] == 2
    assert code == 75
    assert list((place / "run" / "checkpoints").glob("checkpoint-*"))


def test_ranks_do_not_outlive_a_killed_launcher(place: Path) -> None:
    process = start(place, *command("checkpoint.save_steps=2", steps=5000))
    _wait_for(place / "run" / "checkpoints" / "checkpoint-2")
    process.kill()
    process.communicate(timeout=60)
    time.sleep(1)  # the fixture looks


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
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
    assert f"error: rank 1 on {HOST}: ValueError: no good; traceback: {place}/run/train.log" in errors.splitlines()
    assert manifest(place)["status"] == "failed"
    assert manifest(place)["error"] == f"rank 1 on {HOST}: ValueError: no good"


def test_torchrun_on_two_machines(place: Path) -> None:
    port = free_port()
    agent = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=1")
    arguments = [*agent, f"--rdzv-endpoint=localhost:{port}", *command("launch.nproc_per_node=null", directory="run")]
    arguments = [word for word in arguments if word != "launch.nproc_per_node=2"]
    agents = [start(place, *arguments, OMP_NUM_THREADS="1") for _ in range(2)]
    errors = [agent.communicate(timeout=90)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], errors
    assert (manifest(place)["status"], manifest(place)["world_size"]) == ("completed", 2)


def test_torchrun_decides_how_many(place: Path) -> None:
    arguments = ("launch.nnodes=2", "cluster=slurm")
    code, errors = run(place, *TORCHRUN, *command(*arguments), OMP_NUM_THREADS="1")
    assert code == 1
    lines = [line.split(" (")[0] for line in errors.splitlines() if "fix: " in line]
    assert lines == ["launch.nnodes=2", "cluster"]


# One process at a time in a run's directory -----------------------------------------------------------------------

AT_ONCE = """
import sys
from trainer.cli.train import main
from trainer.run import directory

hold = directory.hold

def wait_and_hold(path):
    print("prepared", flush=True)
    sys.stdin.readline()
    return hold(path)

directory.hold = wait_and_hold
sys.exit(main(sys.argv[1:]))
"""


def test_two_that_resume_the_same_run_at_once(place: Path) -> None:
    (place / "run").mkdir()
    (place / "run" / "manifest.json").write_text('{"status": "failed"}')
    words = command("checkpoint.resume_from_checkpoint=auto", "checkpoint.save_steps=2", steps=5000)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    arguments = [sys.executable, "-c", AT_ONCE, *words[1:]]
    both = [subprocess.Popen(arguments, cwd=place, env=environment, text=True, **pipes) for _ in range(2)]
    try:
        for process in both:
            assert process.stdout.readline() == "prepared\n"  # each has found the run dead
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        _wait_for(place / "run" / "checkpoints" / "checkpoint-2")
        (second,) = [process for process in both if process.poll() is not None]
        (first,) = [process for process in both if process is not second]
        says = (
            f"run.output_dir={place}/run (command line): holds a run that is running now: process {first.pid} on {HOST}"
        )
        assert (second.returncode, second.communicate()[1].splitlines()) == (2, [says])
        assert manifest(place)["process"]["pid"] == first.pid
        with pytest.raises(ConfigError, match=f"process {first.pid} on"):
            run_directory.hold(place / "run")
    finally:
        for process in both:
            process.kill()
            process.communicate()
    run_directory.hold(place / "run")  # released by the kernel


def test_torchruns_first_rank_holds_the_directory(place: Path) -> None:
    words = command("checkpoint.save_steps=2", steps=5000)
    agent = start(place, *TORCHRUN, *words, OMP_NUM_THREADS="1")
    try:
        _wait_for(place / "run" / "checkpoints" / "checkpoint-2")
        with pytest.raises(ConfigError, match=f"process {manifest(place)['process']['pid']} on {HOST}"):
            run_directory.hold(place / "run")
    finally:
        agent.kill()
        agent.communicate()
        time.sleep(1)


# Restarts and ranks that hang --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_are_restarted_from_the_newest_checkpoint(place: Path, ranks: int) -> None:
    settings = ("checkpoint.save_steps=2", "launch.max_restarts=2", "model.at=4", f"model.rank='{ranks - 1}'")
    arguments = [word for word in command(*settings, fault="once SIGKILL") if not word.startswith("launch.nproc")]
    code, errors = run(place, *arguments, f"launch.nproc_per_node={ranks}")
    who = f"rank 1 on {HOST}: " if ranks == 2 else ""
    assert (code, errors.splitlines()) == (0, [f"restart 1 of 2: {who}killed by SIGKILL"])
    found = manifest(place)
    assert (found["status"], [r["error"] for r in found["restarts"]]) == ("completed", [f"{who}killed by SIGKILL"])
    assert [r["step"] for r in found["resumed"]] == [2]
    records = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in records]
    assert steps == sorted(steps)


def test_restarts_are_counted_and_come_to_an_end(place: Path) -> None:
    code, errors = run(place, *command("launch.max_restarts=1", fault="exit"))
    assert code == 1
    says = f"rank 1 on {HOST}: exited with code 0 before its end"
    lines = errors.splitlines()
    assert [lines[0], lines[-1]] == [f"restart 1 of 1: {says}", f"error: {says}; traceback: {place}/run/train.log"]
    assert all("no checkpoint in" in line for line in lines[1:-1])


def test_a_wrong_checkpoint_is_not_tried_again(place: Path) -> None:
    (place / "checkpoint-3").mkdir()
    settings = ("launch.max_restarts=3", f"checkpoint.resume_from_checkpoint={place}/checkpoint-3")
    code, errors = run(place, *(word for word in command(*settings) if not word.startswith("launch.nproc")))
    assert code == 1
    (line,) = errors.splitlines()
    assert "CheckpointError" in line


def test_a_rank_that_hangs_ends_the_run(place: Path) -> None:
    began = time.monotonic()
    code, errors = run(place, *command("parallel.ddp_timeout=3", fault="SIGSTOP"))
    assert code == 1
    (line,) = [line for line in errors.splitlines() if not line.startswith("[W")]  # torch's own, on a busy machine
    assert line.startswith(f"error: rank 1 on {HOST}: is stopped (SIGSTOP), and rank 0 waited in vain: ")
    assert "imed out" in line
    assert time.monotonic() - began < 60
