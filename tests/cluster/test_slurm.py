"""Jobs of a real Slurm, submitted as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm import ask, cluster, wait_for

pytestmark = pytest.mark.slow

TRAIN = Path(__file__).parents[2] / "train.py"
MINE = """
import os, signal, time, torch
from pathlib import Path

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, i):
        return torch.randn(4), torch.full((3,), float(i)) / 64

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3))

    def forward(self, x):
        time.sleep(0.05)
        return super().forward(x)

class Faulty(Net):
    def __init__(self, fault, rank, times=1):
        super().__init__()
        self.fault, self.rank, self.times, self.calls = fault, rank, times, 0

    def forward(self, x):
        self.calls += 1
        marks = [Path(f"{self.fault}-{i}") for i in range(self.times) if not Path(f"{self.fault}-{i}").exists()]
        if self.calls == 4 and os.environ["RANK"] == self.rank and marks:
            marks[0].touch()
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("no good")
        return super().forward(x)
"""
EXPERIMENT = """# @package _global_
train:
  max_steps: 40
  per_device_train_batch_size: 4
optim:
  learning_rate: 0.01
"""
RUN = ["experiment=mine", "model={_target_: mine.Net}", "task=regression", "data.train_dataset._target_=mine.Data"]
RUN += ["data.eval_dataset=null", "evaluation.eval_strategy=no", "logging=none", "logging.logging_steps=1"]
RUN += ["optim=adamw", "run.use_cpu=true"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with cluster() as variables:
        yield variables | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("project")
    (place / "mine.py").write_text(MINE)
    (place / "conf/experiment").mkdir(parents=True)
    (place / "conf/experiment/mine.yaml").write_text(EXPERIMENT)
    return place


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(TRAIN), *RUN, *overrides]


def submit(project: Path, slurm: dict[str, str], *overrides: str) -> str:
    done = subprocess.run(
        command("cluster=slurm", *overrides),
        cwd=project,
        env=os.environ | slurm,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return found


def wait(directory: Path, status: str = "completed") -> None:
    def ended() -> bool:
        found = manifest(directory)["status"]
        assert found in (status, "queued", "running", "preempted"), manifest(directory)["error"]
        return bool(found == status)

    wait_for(ended, f"{directory}: {status}", 90)


def losses(directory: Path) -> list[str]:
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [float(r["loss"]).hex() for r in records if "loss" in r]


@pytest.fixture(scope="module")
def whole(project: Path, slurm: dict[str, str]) -> Path:
    """A job that nothing interrupts, but whose YAML is edited while it waits."""
    said = submit(project, slurm, "hydra.run.dir=whole", "cluster.additional_parameters={hold: true}")
    directory = project / "whole"
    match = re.fullmatch(r"job (\d+): (.*)\n", said)
    assert match
    assert match[2] == str(directory)
    assert manifest(directory)["status"] == "queued"
    experiment = project / "conf/experiment/mine.yaml"
    experiment.write_text(EXPERIMENT.replace("40", "2"))
    ask(slurm, "scontrol", "release", match[1])
    wait(directory)
    experiment.write_text(EXPERIMENT)
    return directory


def test_a_job_runs_the_config_that_was_submitted(whole: Path) -> None:
    assert len(losses(whole)) == 40
    found = manifest(whole)
    assert found["slurm"]["restarts"] == 0
    assert found["started_at"]
    assert (whole / "model/model.safetensors").exists()
    assert (whole / "slurm").stat().st_mode & 0o077 == 0


def test_a_requeued_job_goes_on_exactly(project: Path, slurm: dict[str, str], whole: Path) -> None:
    job = submit(project, slurm, "hydra.run.dir=requeued", "checkpoint.save_steps=1000").split()[1].rstrip(":")
    directory = project / "requeued"
    wait_for(lambda: (directory / "metrics.jsonl").exists() and len(losses(directory)) > 3, "steps")
    ask(slurm, "scancel", "--signal=USR1", job)
    wait(directory)
    found = manifest(directory)
    assert found["slurm"] == {"job_id": job, "restarts": 1}
    (resumed,) = found["resumed"]
    assert 0 < resumed["step"] < 40
    assert losses(directory) == losses(whole)
    ours, theirs = (d / "model/model.safetensors" for d in (directory, whole))
    assert ours.read_bytes() == theirs.read_bytes()
    assert not (directory / "config.1.yaml").exists()


def test_a_cancelled_job_saves_and_stays_away(project: Path, slurm: dict[str, str]) -> None:
    job = submit(project, slurm, "hydra.run.dir=cancelled", "train.max_steps=4000").split()[1].rstrip(":")
    directory = project / "cancelled"
    wait_for(lambda: (directory / "metrics.jsonl").exists() and len(losses(directory)) > 3, "steps")
    ask(slurm, "scancel", job)
    wait(directory, "preempted")
    assert list((directory / "checkpoints").glob("checkpoint-*"))
    wait_for(lambda: not ask(slurm, "squeue", "--noheader"), "the queue is empty")


def test_a_sweep_is_an_array(project: Path, slurm: dict[str, str]) -> None:
    overrides = ("-m", "optim.learning_rate=0.1,0.2", "train.max_steps=3", "hydra.sweep.dir=sweep")
    lines = submit(project, slurm, *overrides).splitlines()
    found = [
        re.fullmatch(r"trial (\d): optim.learning_rate=0.\d, job (\d+)_(\d): .*/sweep/(\d)", line) for line in lines
    ]
    assert len(found) == 2
    assert [match and (match[1], match[3], match[4]) for match in found] == [("0", "0", "0"), ("1", "1", "1")]
    for number in (0, 1):
        wait(project / "sweep" / str(number))
    assert losses(project / "sweep/0")[0] == losses(project / "sweep/1")[0]
    assert losses(project / "sweep/0")[1:] != losses(project / "sweep/1")[1:]


def test_two_machines(project: Path, slurm: dict[str, str]) -> None:
    submit(project, slurm, "launch.nnodes=2", "hydra.run.dir=two", "train.max_steps=6")
    wait(project / "two")
    assert manifest(project / "two")["world_size"] == 2


RESTARTS = ["launch.nnodes=2", "launch.max_restarts=1", "train.max_steps=6", "checkpoint.save_steps=2"]


def test_two_machines_start_again(project: Path, slurm: dict[str, str]) -> None:
    faulty = (
        "model._target_=mine.Faulty",
        "model.fault={0}",
        "model.rank='{1}'",
        "model.times={2}",
        "hydra.run.dir={0}",
    )
    job = submit(project, slurm, *RESTARTS, *(word.format("kill", 0, 1) for word in faulty)).split()[1].rstrip(":")
    submit(project, slurm, *RESTARTS, *(word.format("raise", 1, 9) for word in faulty))
    (project / "checkpoint-3").mkdir()
    submit(project, slurm, *RESTARTS, "hydra.run.dir=final", "checkpoint.resume_from_checkpoint=checkpoint-3")
    wait_for(lambda: not ask(slurm, "squeue", "--noheader"), "the queue is empty", 120)
    killed, raises, final = (manifest(project / name) for name in ("kill", "raise", "final"))
    assert (killed["status"], [one["job_id"] for one in killed["restarts"]]) == ("completed", [job])
    assert [resumed["step"] for resumed in killed["resumed"]] == [2]
    assert losses(project / "kill") == losses(project / "two")
    assert (raises["status"], len(raises["restarts"])) == ("failed", 1)
    assert "ValueError: no good" in raises["error"]
    assert "ValueError: no good" in raises["restarts"][0]["error"]
    assert (final["status"], final["restarts"]) == ("failed", [])  # it would fail again
    assert "CheckpointError" in final["error"]


def test_sruns_own_tasks_are_ranks(project: Path, slurm: dict[str, str]) -> None:
    arguments = command("hydra.run.dir=srun", "train.max_steps=3")
    done = subprocess.run(
        ["srun", "--nodes=1", "--ntasks=2", *arguments],
        cwd=project,
        env=os.environ | slurm,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    found = manifest(project / "srun")
    assert (found["status"], found["world_size"]) == ("completed", 2)


def test_what_slurm_refuses_is_one_line(project: Path, slurm: dict[str, str]) -> None:
    done = subprocess.run(
        command("cluster=slurm", "cluster.partition=none", "hydra.run.dir=refused"),
        cwd=project,
        env=os.environ | slurm,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("cluster (command line): sbatch: error: ")
    assert "invalid partition" in line
    assert not (project / "refused").exists()
