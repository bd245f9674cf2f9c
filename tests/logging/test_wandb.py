"""wandb itself, offline, in a process of its own; what it wrote is read back from the .wandb file."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys, time
from pathlib import Path
from trainer.logging.reporter import build_reporters
from trainer.secrets import mask
from trainer.events import Events
from trainer.schema.logging import Wandb as Node
from trainer.state import RunInfo, State

home = Path(sys.argv[1])
options = json.loads(sys.argv[2])
config = {"optim": {"learning_rate": 1e-4}, "hub": {"hub_token": "very-secret"}, "list": [1, 2]}
for first, last, resumed, status in json.loads(sys.argv[3]):
    events = Events({}, build_reporters({"wandb": Node(**options)}))
    run = RunInfo(directory=home / "run", run_id="abc123def456", run_name="default-name", project="p",
                  config=mask(config), resumed_step=resumed)
    run.directory.mkdir(exist_ok=True)
    events.start(run, State())
    for step in range(first, last + 1):
        record = {"step": step, "epoch": step / 10, "time": 1e9 + step}
        events.report(record | {"loss": 1 / step})
        events.report(record | {"eval_loss": 2 / step})
    events.finish(status)
    time.sleep(1.1)  # wandb names its directories by the second
"""


def wandb_process(
    home: Path, sessions: list[tuple[int, int, int, str]], *, environment: str = "offline", **options: Any
) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("wandb")
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    arguments = [str(home), json.dumps({"project": "exams", "name": None, **options}), json.dumps(sessions)]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=home,
        env=foreign | {"HOME": str(home), "WANDB_MODE": environment, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format (32 kB blocks of checked chunks) after a 7-byte header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last of several
            yield Record.FromString(parts)
            parts = b""


def history(path: Path) -> list[dict[str, Any]]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.mark.slow
def test_a_real_offline_run_and_its_resume(tmp_path: Path) -> None:
    done = wandb_process(
        tmp_path, [(1, 3, 0, "preempted"), (3, 5, 2, "completed")], tags=["a", "b"], group="g", notes="why"
    )
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stderr

    first, second = sorted(tmp_path.glob("run/wandb/offline-run-*-abc123def456/run-abc123def456.wandb"))
    run = next(record.run for record in records(first) if record.WhichOneof("record_type") == "run")
    assert (run.run_id, run.project, run.display_name) == ("abc123def456", "exams", "default-name")
    assert (run.run_group, run.notes, list(run.tags)) == ("g", "why", ["a", "b"])
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["optim"] == {"learning_rate": 1e-4}
    assert config["hub"] == {"hub_token": "***"}
    assert config["list"] == [1, 2]

    rows = history(first)
    assert [row["train/global_step"] for row in rows] == [1, 1, 2, 2, 3, 3]
    assert [row["train/loss"] for row in rows[::2]] == [1.0, 1 / 2, 1 / 3]
    assert [row["eval/loss"] for row in rows[1::2]] == [2.0, 1.0, 2 / 3]
    assert [row["train/global_step"] for row in history(second)] == [3, 3, 4, 4, 5, 5]
    kinds = [[record.WhichOneof("record_type") for record in records(path)] for path in (first, second)]
    assert ["preempting" in kind for kind in kinds] == [True, False]
    assert [r.exit.exit_code for path in (first, second) for r in records(path) if r.HasField("exit")] == [1, 0]

    assert {path.name for path in tmp_path.iterdir()} == {"run"}, "nothing outside the run's directory"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"wandb"}
    saved = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".py", ".patch", ".ipynb")]
    assert saved == [], "no source code is kept"
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"very-secret" not in everything


@pytest.mark.slow
def test_online_without_a_key_stops_the_run_with_what_to_do(tmp_path: Path) -> None:
    done = wandb_process(tmp_path, [(1, 1, 0, "completed")], environment="online")
    assert done.returncode == 1
    assert "ReporterError: logging.reporters.wandb cannot start: PermissionError: no W&B API key" in done.stderr
    assert "logging.reporters.wandb.mode=offline" in done.stderr


@pytest.mark.slow
def test_the_configs_mode_wins_over_the_environments(tmp_path: Path) -> None:
    done = wandb_process(tmp_path, [(1, 1, 0, "completed")], environment="online", mode="offline", name="mine")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")
    assert next(r.run.display_name for r in records(file) if r.WhichOneof("record_type") == "run") == "mine"
