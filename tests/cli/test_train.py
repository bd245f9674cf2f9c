"""The command line, as typed: subprocesses of `python train.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import __version__

TRAIN = Path(__file__).parents[2] / "train.py"

ENGINES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "parallel").glob("*.yaml"))


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", str(TRAIN), *arguments]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "torch" not in imported, "looking at a config imports torch"
    done.stderr = "\n".join(line for line in lines if not line.startswith("import time:"))
    return done


def test_cfg_job(tmp_path: Path) -> None:
    done = run("--cfg", "job", "optim.learning_rate=1e-3", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "learning_rate: 0.001" in done.stdout
    assert "${now:" in done.stdout
    assert "hydra:" not in done.stdout
    assert "${" not in run("--cfg", "job", "--resolve", cwd=tmp_path).stdout
    assert run("--cfg", "job", "-p", "optim", cwd=tmp_path).stdout.startswith("# @package optim\n_target_:")
    assert "job_logging" in run("--cfg", "hydra", cwd=tmp_path).stdout
    assert list(tmp_path.iterdir()) == []


def test_help_lists_groups_and_no_schema(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"parallel: {', '.join(ENGINES)}" in done.stdout
    assert "schema" not in done.stdout.replace("trainer/schema/", "")
    assert run("--hydra-help", cwd=tmp_path).returncode == 0
    assert run("--version", cwd=tmp_path).stdout.startswith(f"trainer {__version__} (Hydra 1.3")
    for what in ("defaults", "searchpath", "config"):
        assert run("--info", what, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("parallel=", " ".join(f"parallel={engine}" for engine in ENGINES)),
        ("optim.learning", "optim.learning_rate="),
        ("train.max_s", "train.max_steps="),
        ("optim=sgd optim.mom", "optim.momentum="),
        ("sch", "scheduler. scheduler="),
        ("lr=3 optim.mom", ""),
    ],
)
def test_completion(tmp_path: Path, line: str, expected: str) -> None:
    done = run("-sc", "query=bash", cwd=tmp_path, COMP_LINE=f"python train.py {line}")
    assert done.stdout.strip() == expected
    assert done.returncode == 0


def test_completion_installs(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert run("-sc", f"install={shell}", cwd=tmp_path).returncode == 0
    assert run("-sc", "install=tcsh", cwd=tmp_path).returncode == 2


WRONG = ["optmi=sgd", "learning_rate=1e-4", "train.max_steps=many", "model.n_head=3", "hydra.run.dir=here"]


@pytest.mark.parametrize("flags", [[], ["--cfg", "job"], ["-m"]])
def test_every_problem_in_a_line_of_its_own_and_nothing_written(tmp_path: Path, flags: list[str]) -> None:
    done = run(*flags, *WRONG, *(["run.seed=1,2"] if flags == ["-m"] else []), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "optmi=sgd",
        "learning_rate=" + ("0.0001" if flags == ["-m"] else "1e-4"),  # a sweep's values are Hydra's
        "train.max_steps=many",
        "model.n_embd=128",
    ]
    assert list(tmp_path.iterdir()) == []


def test_full_error_shows_a_traceback(tmp_path: Path) -> None:
    done = run("optmi=sgd", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr


def test_a_directory_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "manifest.json").write_text('{"status": "completed"}')
    done = run("hydra.run.dir=taken", cwd=tmp_path)
    assert done.returncode == 2
    assert "hydra.run.dir=" in done.stderr
    assert "holds a run already; fix: checkpoint.resume_from_checkpoint=auto" in done.stderr
    file = tmp_path / "file"
    file.write_text("")
    done = run("hydra.run.dir=file/run", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be made: Not a directory" in done.stderr


def test_a_sweep_checks_every_trial_first(tmp_path: Path) -> None:
    done = run("-m", "optim.learning_rate=1e-4,-1,nan", cwd=tmp_path)
    assert done.returncode == 2
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == [
        "optim.learning_rate=-1",
        "optim.learning_rate=nan",
    ]
    assert "the same for two trials" in run("-m", "run.seed=1,2", "hydra.sweep.subdir=x", cwd=tmp_path).stderr
    assert list(tmp_path.iterdir()) == []


def test_flags_that_cannot_be_combined(tmp_path: Path) -> None:
    for flags in (["--cfg", "job", "-m"], ["--resolve"], ["--config-path", "x"], ["--nonsense"]):
        assert run(*flags, cwd=tmp_path).returncode == 2


def test_flags_may_stand_anywhere(tmp_path: Path) -> None:
    done = run("run.seed=7", "--cfg", "job", "train.max_steps=3", cwd=tmp_path)
    assert "seed: 7" in done.stdout
    assert "max_steps: 3" in done.stdout


def test_a_users_own_project(tmp_path: Path) -> None:
    """Nothing but a conf/ of one's own, by the installed command."""
    conf = tmp_path / "conf" / "experiment"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("# @package _global_\ntrain:\n  max_steps: 5\n")
    command = [sys.executable, "-m", "trainer", "train", "experiment=mine", "--cfg", "job"]
    environment = {**os.environ, "PYTHONPATH": str(TRAIN.parent)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "max_steps: 5" in done.stdout


def test_the_verbs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TRAIN.parent)}
    command = [sys.executable, "-m", "trainer", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0
    assert "train " in done.stdout
    command[-1] = "--version"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == f"trainer {__version__}\n"
