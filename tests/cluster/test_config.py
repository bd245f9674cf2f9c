"""What a config may say of clusters and machines, and what their files may override."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.cluster.srun import first_node, rank_environment
from trainer.config.composer import Composition
from trainer.run import directory as run_directory
from trainer.schema.cluster import Slurm
from trainer.schema.parallel import DDP, FSDP

Compose = Callable[..., Composition]
TRAIN = Path(__file__).parents[2] / "train.py"


def test_two_kinds_of_gpu(compose: Compose) -> None:
    old = compose("cluster=slurm_v100").config
    new = compose("cluster=slurm_h100").config
    assert old
    assert new
    assert (old.precision.fp16, type(old.parallel)) == (True, FSDP)
    assert (new.precision.bf16, type(new.parallel)) == (True, DDP)
    assert isinstance(new.cluster, Slurm)
    assert (new.cluster.partition, new.cluster.gpus_per_node) == ("h100", 8)
    mine = compose("cluster=slurm_h100", "parallel=fsdp", "cluster.time=5").config
    assert mine
    assert isinstance(mine.parallel, FSDP)
    assert isinstance(mine.cluster, Slurm)
    assert mine.cluster.time == 5


@pytest.mark.parametrize(
    ("overrides", "line", "cure"),
    [
        (["launch.nnodes=2", "parallel=single"], "needs an engine for several ranks", "parallel=ddp"),
        (
            ["cluster=slurm", "cluster.gpus_per_node=2", "run.use_cpu=true"],
            "would stay idle",
            "cluster.gpus_per_node=0",
        ),
        (
            ["cluster=slurm", "cluster.gpus_per_node=2", "launch.nproc_per_node=4"],
            "is more than cluster.gpus_per_node=2",
            "launch.nproc_per_node=2",
        ),
        (["cluster=slurm", "cluster.time=0"], "allowed: at least 1", "cluster.time=1"),
    ],
)
def test_rule(compose: Compose, overrides: list[str], line: str, cure: str) -> None:
    (problem,) = compose(*overrides).problems
    assert line in str(problem)
    kept = [o for o in overrides if o.split("=")[0] != cure.split("=")[0]]
    assert not compose(*kept, cure).problems


def test_a_gpu_that_is_asked_for_counts(compose: Compose) -> None:
    overrides = ("parallel=zero2", "precision=fp16", "cluster=slurm")
    assert "DeepSpeed on a CPU" in str(compose(*overrides).problems)
    assert not compose(*overrides, "cluster.gpus_per_node=1").problems


def fails(project: Path, *overrides: str, path: str | None = None) -> list[str]:
    environment = os.environ | ({"PATH": path} if path is not None else {})
    done = subprocess.run(
        [sys.executable, str(TRAIN), *overrides],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()


def test_a_problem_says_that_a_clusters_file_is_where_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "conf/cluster").mkdir(parents=True)
    (tmp_path / "conf/cluster/mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - /schema/cluster@cluster: slurm\n  - override /precision: bf16\n  - _self_\n"
        "precision:\n  fp16: true\ncluster:\n  time: never\n  gpus_per_node: -1\n"
    )
    lines = fails(tmp_path, "cluster=mine")
    places = [line.split("): ")[0] for line in lines]
    assert "cluster.time=never (conf/cluster/mine.yaml:9" in places
    (tmp_path / "conf/cluster/mine.yaml").write_text(
        (tmp_path / "conf/cluster/mine.yaml").read_text().replace("never", "5")
    )
    places = [line.split("): ")[0] for line in fails(tmp_path, "cluster=mine")]
    assert "cluster.gpus_per_node=-1 (conf/cluster/mine.yaml:10" in places
    assert any(place.startswith("precision.bf16=") for place in places)


def test_where_it_cannot_be_submitted(tmp_path: Path) -> None:
    (line,) = fails(tmp_path, "cluster=slurm", path="/nowhere")
    assert line == "cluster=slurm (command line): there is no sbatch on PATH: not a Slurm cluster"
    (line,) = fails(tmp_path, "launch.nnodes=2")
    assert "this command starts the ranks of one machine" in line
    (line,) = fails(tmp_path, "-m", "cluster=local,slurm")
    assert "some trials would run here and some on a cluster" in line or "no sbatch" in line
    assert not list(tmp_path.iterdir())


def test_sruns_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_node("gpu[07-09,12],other") == "gpu07"
    assert first_node("a,b") == "a"
    assert first_node("rack[1-2]n[3-4]x") == "rack1n3x"
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert rank_environment() == {}
    for name, value in {
        "JOB_ID": "7",
        "NTASKS": "4",  # a batch script's, which is no step
        "PROCID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert rank_environment() == {}
    for name, value in {
        "STEP_ID": "0",
        "STEP_NUM_TASKS": "5",
        "STEP_TASKS_PER_NODE": "2(x2),1",
        "STEP_NODELIST": "localhost,b,c",
        "PROCID": "4",
        "LOCALID": "0",
        "NODEID": "2",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = rank_environment()
    assert int(found.pop("MASTER_PORT")) in range(20000, 30000)
    assert found == {
        "RANK": "4",
        "WORLD_SIZE": "5",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
    }


def test_a_queued_run_is_nobody_elses(tmp_path: Path) -> None:
    directory = run_directory.create(tmp_path / "outputs/day/now", exact=True)
    (directory / "kept").write_text("")
    run_directory.begin(
        directory, config={}, overrides=[], argv=[], status=run_directory.Status.queued, started_at=None
    )
    digest = run_directory.config_hash({})
    assert run_directory.newest_unfinished(tmp_path / "outputs", digest) is None
    run_directory.begin(directory, config={}, overrides=[], argv=[])
    assert run_directory.read(directory)["started_at"]
    run_directory.discard(directory)
    assert [path.name for path in directory.iterdir()] == ["kept"]
