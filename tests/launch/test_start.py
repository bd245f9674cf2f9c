"""The start of a run from Python: what comes back, and what is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.config.composer import compose
from trainer.launch import start
from trainer.launch.prepared import Prepared
from trainer.run.directory import Status

ROOT = Path(__file__).parents[2]
RUN = [
    *("experiment=null", "model=mlp", "model.sizes=[4,3]", "task=regression", "optim=sgd", "logging=none"),
    *("data.train_dataset._target_=tests.launch.test_start.Data", "evaluation.eval_strategy=no"),
    *("run.use_cpu=true", "train.max_steps=2", "train.per_device_train_batch_size=4", "parallel=ddp"),
]


class Data:
    """Eight samples, or an error in place of each."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> tuple[object, object]:
        import torch

        if self.error:
            raise ValueError(self.error)
        return torch.full((4,), float(i)), torch.full((3,), float(i))


def prepared(directory: Path, *overrides: str) -> Prepared:
    words = [*RUN, f"hydra.run.dir={directory}", *overrides]
    composition = compose(words)
    return start.prepare(composition, start.check(composition), words)


def test_a_failure_is_returned_with_its_exception(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = start.run(prepared(tmp_path / "run", "data.train_dataset.error=no good"))
    assert (outcome.status, outcome.model) == (Status.failed, None)
    assert isinstance(outcome.exception, ValueError)
    assert outcome.error
    assert "no good" in outcome.error
    assert "error:" not in capfd.readouterr().err
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert (manifest["status"], manifest["error"]) == ("failed", outcome.error)
    assert "Traceback" in (tmp_path / "run/train.log").read_text()
    code = "import sys; from pathlib import Path; from trainer.run.directory import hold; hold(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, cwd=ROOT, timeout=60)


def test_a_run_works_in_its_directory_only_while_it_lasts(tmp_path: Path) -> None:
    before = os.getcwd()
    outcome = start.run(prepared(tmp_path / "run", "hydra.job.chdir=true"))
    assert outcome.status is Status.completed
    assert os.getcwd() == before


SCRIPT = """
import sys
from pathlib import Path
from torch import nn
from tests.launch.test_start import prepared
from trainer.launch import start
from trainer.train.objects import Objects

class Net(nn.Linear):  # of __main__, which no other process can import
    pass

directory = Path(sys.argv[1])
net = Net(4, 3)
here = start.run(prepared(directory / "here"), Objects(model=net))
assert here.status == "completed" and isinstance(here.model, Net), here
own = start.run(prepared(directory / "own"), Objects(model=Net(4, 3)), own_process=True)
assert own.status == "completed" and own.model is None, own
two = start.run(prepared(directory / "two", "launch.nproc_per_node=2"), Objects(model=Net(4, 3)))
assert two.status == "completed" and two.model is None, two
"""


@pytest.mark.slow
def test_objects_reach_ranks_in_other_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two/manifest.json").read_text())["world_size"] == 2
