from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from trainer.events import Events
from trainer.logging.csv import Csv
from trainer.logging.jsonl import MetricsFile
from trainer.schema.logging import Csv as Node
from trainer.state import RunInfo, State


def log(directory: Path, records: list[dict[str, Any]], *, resumed_step: int = 0) -> list[dict[str, str]]:
    """Log as the runner does (metrics.jsonl first), and read the table back."""
    metrics, events = MetricsFile(directory / "metrics.jsonl"), Events({}, {"csv": Csv(Node())}, timeout=10)
    metrics.truncate(resumed_step)
    run = RunInfo(directory=directory, run_id="id", run_name="n", project="p", config={}, resumed_step=resumed_step)
    events.start(run, State())
    for record in records:
        metrics.write(record)
        events.report(record)
    events.finish("completed")
    metrics.close()
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_columns_grow_and_digits_stay(tmp_path: Path) -> None:
    rows = log(
        tmp_path,
        [
            {"step": 1, "epoch": 0.5, "time": 1.5, "loss": 0.1 + 0.2},
            {"step": 1, "epoch": 0.5, "time": 2.5, "eval_loss": 2.0},
            {"step": 2, "epoch": 1.0, "time": 3.5, "loss": 1 / 3},
        ],
    )
    assert list(rows[0]) == ["step", "epoch", "time", "loss", "eval_loss"]
    assert [row["step"] for row in rows] == ["1", "1", "2"]
    assert float(rows[0]["loss"]) == 0.1 + 0.2
    assert [row["eval_loss"] for row in rows] == ["", "2.0", ""]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.csv", "metrics.jsonl"]


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    records = [{"step": step, "epoch": 0.0, "time": 0.0, "loss": step / 3} for step in range(1, 6)]
    log(tmp_path, records)
    rows = log(tmp_path, records[3:], resumed_step=3)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]


def test_a_run_that_goes_back_has_each_step_once(tmp_path: Path) -> None:
    metrics, reporter = MetricsFile(tmp_path / "metrics.jsonl"), Csv(Node())
    reporter.start(RunInfo(directory=tmp_path, run_id="", run_name="", project="", config={}, resumed_step=0))
    for step in (1, 2, 3, 2, 3, 4):
        if step == 2:
            metrics.truncate(1)
        metrics.write({"step": step, "loss": 1.0})
        reporter.log({"step": step, "loss": 1.0})
    reporter.finish("completed")
    metrics.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
