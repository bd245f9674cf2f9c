"""A tracker's whole life in a process of its own: started, given records, closed; perhaps resumed and closed again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = """
import json, sys
from dataclasses import fields
from pathlib import Path
from trainer.logging.reporter import build_reporters
from trainer.secrets import mask
from trainer.events import Events
from trainer.schema import OPTIONS
from trainer.state import RunInfo, State

home, name, options, sessions = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
directory = home / "run"
config = {"optim": {"learning_rate": 1e-4, "betas": [0.9, 0.99]}, "hub": {"hub_token": sys.argv[-1].partition("=")[2]},
          "logging": {"reporters": {name: options}}}
node = OPTIONS["reporters"][name](**options)
for field in fields(node):  # what composing resolves
    given = {"${run.project}": "p", "${run.run_name}": None, "${hub.hub_private_repo}": None}
    if getattr(node, field.name) in list(given):
        setattr(node, field.name, given[getattr(node, field.name)])
for first, last, resumed, status in sessions:
    events = Events({}, build_reporters({name: node}), timeout=100)
    run = RunInfo(directory=directory, run_id="abc123def456", run_name="the-name", project="p",
                  config=mask(config), resumed_step=resumed)
    (directory / "model").mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text("a: 1")
    events.start(run, State())
    for step in range(first, last + 1):
        where = {"step": step, "epoch": step / 10, "time": 1.7e9 + step}
        events.report(where | {"loss": 1 / step, "learning_rate": 1e-4})
        events.report(where | {"eval_loss": 2 / step})
    events.report(where | {"train_loss": 0.5, "train_runtime": 2.0})
    events.finish(status)
"""

Session = tuple[int, int, int, str]
"""First step, last step, the step it resumes from, status at the end."""


def track(
    name: str,
    home: Path,
    options: dict[str, Any] | None = None,
    *sessions: Session,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it with a home of its own, no credentials, and a secret on its command line, which must not be written."""
    known = ("MLFLOW", "TRACKIO", "COMET", "CLEARML", "DVC", "NEPTUNE", "SWANLAB", "AIM", "AZUREML", "FLYTE", "HF_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(known)}
    arguments = [str(home), name, json.dumps(options or {}), json.dumps(sessions or [(1, 3, 0, "completed")])]
    script = home / "train_script.py"
    script.write_text(SCRIPT)
    return subprocess.run(
        [sys.executable, str(script), *arguments, "hub.hub_token=very-secret"],
        capture_output=True, text=True, timeout=150, stdin=subprocess.DEVNULL, cwd=home,
        env=inherited | {"HOME": str(home), "PYTHONPATH": _path()} | (environment or {}),
    )  # fmt: skip


def tracked(name: str, home: Path, *arguments: Any, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """The same, and it went well: nothing was switched off, no secret is in a file or on the terminal."""
    done = track(name, home, *arguments, **keywords)
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stderr
    (home / "train_script.py").unlink()
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [path for path in files if b"very-secret" in path.read_bytes()] == []
    assert "very-secret" not in done.stdout + done.stderr
    return done


def _path() -> str:
    return os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
