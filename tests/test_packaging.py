"""The wheel: conf/ travels inside it, and a project that holds nothing but a conf/ of its own works with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def succeed(*command: str | Path, cwd: Path) -> str:
    result = run(*command, cwd=cwd)
    assert result.returncode == 0, f"{command}: exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without network; the wheel is built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def trainer(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script, installed from the wheel into an environment that borrows only the dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (wheel,) = distributions.glob("*.whl")
    succeed(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # a path that comes from a .pth file is not searched for further .pth files: the editable install stays unseen
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = succeed(python, "-c", "import trainer; print(trainer.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(folder)
    return folder / "bin" / "trainer"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder with a conf/ of the user's own."""
    experiment = tmp_path / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(
        "# @package _global_\n"
        "defaults: [override /model: mlp, override /data: digits, override /task: classification]\n"
        "train: {max_steps: 2, per_device_train_batch_size: 4}\n"
    )
    return tmp_path


def files_below(folder: str) -> set[str]:
    """The files of one of the repository's folders, without caches."""
    paths = (ROOT / folder).rglob("*")
    return {str(p.relative_to(ROOT)) for p in paths if p.is_file() and "__pycache__" not in p.parts}


def test_the_wheel_holds_the_package_and_its_conf(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == files_below("trainer") | {f"trainer/{name}" for name in files_below("conf")}


def test_the_sdist_holds_what_the_two_commands_need(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"train.py", "Makefile", "requirements.lock", "pyproject.toml"} <= names
    assert files_below("conf") | files_below("tests") <= names


def test_help_lists_the_verbs(trainer: Path, project: Path) -> None:
    assert "train" in succeed(trainer, "--help", cwd=project)


def test_a_users_own_experiment_composes(trainer: Path, project: Path) -> None:
    assert "max_steps: 2" in succeed(trainer, "train", "--cfg", "job", "experiment=mine", cwd=project)


def test_an_unknown_experiment_is_answered_with_the_users_own(trainer: Path, project: Path) -> None:
    result = run(trainer, "train", "experiment=mime", cwd=project)
    assert result.returncode == 2
    assert "experiment=mine" in result.stderr


def test_a_users_own_experiment_trains(trainer: Path, project: Path) -> None:
    pytest.importorskip("sklearn")
    succeed(trainer, "train", "experiment=mine", "hydra.run.dir=run", cwd=project)
    assert json.loads((project / "run" / "manifest.json").read_text())["status"] == "completed"
    assert {path.name for path in project.iterdir()} == {"conf", "run"}
