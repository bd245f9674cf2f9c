from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.logging.jsonl import MetricsFile, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_numbers_keep_every_digit(path: Path) -> None:
    value = torch.tensor(1 / 3)
    file = MetricsFile(path)
    file.write({"step": 1, "loss": 0.1 + 0.2, "grad_norm": value, "x": np.float32(1 / 3), "bad": math.nan})
    record = json.loads(path.read_text())  # flushed before close
    assert record["loss"].hex() == (0.1 + 0.2).hex()
    assert record["grad_norm"] == record["x"] == value.item()
    assert math.isnan(record["bad"])
    file.close()


def test_a_resume_leaves_each_step_once(path: Path) -> None:
    file = MetricsFile(path)
    for step in range(1, 6):
        file.write({"step": step, "loss": step / 3})
        file.write({"step": step, "eval_loss": step / 7})
    file.write({"step": 5, "train_runtime": 1.0})
    uninterrupted = path.read_bytes()
    file.close()
    file = MetricsFile(path)
    file.truncate(3)
    assert [r["step"] for r in read(path)] == [1, 1, 2, 2, 3, 3]
    for step in range(4, 6):
        file.write({"step": step, "loss": step / 3})
        file.write({"step": step, "eval_loss": step / 7})
    file.write({"step": 5, "train_runtime": 1.0})
    assert path.read_bytes() == uninterrupted
    file.truncate(5)
    assert not any("train_runtime" in r for r in read(path))
    file.truncate(0)
    assert path.read_bytes() == b""
    file.close()
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b'{"step": 2}', b"\x00\x00\x00\n", b'{"step": 2, "s": "\xc3'])
def test_a_torn_last_line_is_dropped(path: Path, torn: bytes) -> None:
    path.write_bytes(b'{"step": 1}\n' + torn)
    file = MetricsFile(path)
    file.write({"step": 2})
    file.close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_kill_9_loses_nothing_that_was_written(path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from trainer.logging.jsonl import MetricsFile\n"
        "file = MetricsFile(Path(sys.argv[1]))\n"
        "for step in (1, 2, 3): file.write({'step': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60, env=os.environ | {"PYTHONPATH": "."})
    assert ended.returncode == -signal.SIGKILL
    assert [r["step"] for r in read(path)] == [1, 2, 3]
