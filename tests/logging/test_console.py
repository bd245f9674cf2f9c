from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging, sys, time
from pathlib import Path
from trainer.events import Events
from trainer.logging.console import Console
from trainer.logging.log_file import log_file
from trainer.schema.logging import Console as Node
from trainer.state import RunInfo, State

directory, disable, status = Path(sys.argv[1]), sys.argv[2] == "disable", sys.argv[3]
state, events = State(step=0, max_steps=300), Events({}, {"console": Console(Node())}, timeout=10)
run = RunInfo(directory=directory, run_id="i", run_name="night", project="p",
              config={"logging": {"disable_tqdm": disable}}, resumed_step=0)
with log_file(directory, rank=0, level="info", level_replica="warning"):
    events.start(run, state)
    for step in range(1, 301):
        state.step = step
        time.sleep(0.004)
        record = {"step": step, "epoch": step / 100, "time": time.time()}
        if step % 100 == 0:
            events.report(record | {"loss": 123.45678 / step, "learning_rate": 1e-4})
            events.report(record | {"eval_loss": 2.5, "eval_accuracy": 0.75, "eval_runtime": 0.1})
        if step == 150:
            print("a print of the user's")
            logging.getLogger("x").warning("a warning")
    if status == "completed":
        events.report(record | {"train_loss": 1.5, "train_runtime": 2.0, "train_steps_per_second": 150.0,
                                "train_samples_per_second": 4800.0})
    events.finish(status)
print("rich" in sys.modules)
"""


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the script shows on a terminal of its own."""
    main, child = pty.openpty()
    variables = os.environ | {"PYTHONPATH": os.getcwd(), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"} | environment
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdin=child, stdout=child, stderr=child, env=variables
    )
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(main, 65536):
            shown += chunk
    except OSError:  # the terminal's other end is closed: the process has ended
        pass
    os.close(main)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


def as_drawn(shown: str) -> list[str]:
    """The lines a terminal shows at the end: carriage returns, line erasure, cursor up."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token.startswith("\x1b"):
            if token.endswith("K"):
                lines[row] = "" if token == "\x1b[2K" else lines[row][:column]
            elif token.endswith("A"):
                row -= int(token[2:-1] or 1)
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines if line.strip()]


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    shown = on_a_terminal(str(tmp_path), "bar", "completed")
    drawn = as_drawn(shown)
    assert drawn[0] == f"night: 300 steps in {tmp_path}"
    evaluations = [line for line in drawn if "eval_loss" in line and line.startswith("step")]
    assert [line.split("  ")[0] for line in evaluations] == ["step 100/300", "step 200/300", "step 300/300"]
    assert "a print of the user's" in drawn
    assert "WARNING: a warning" in drawn
    bars = [line for line in drawn if "━" in line]
    assert len(bars) == 1, drawn
    assert re.fullmatch(r"step 300/300 ━+ loss 0.4115 [\d,.]+ steps/s 0:00:00 left", bars[0])
    assert drawn[-5:] == [
        "completed: step 300/300 in 2.0 s (150 steps/s, 4,800 samples/s)",
        "loss 0.4115  train_loss 1.5",
        "eval_loss 2.5  eval_accuracy 0.75",
        f"directory: {tmp_path}",
        "True",
    ]
    steps = {int(step) for step in re.findall(r"(\d+)/300", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))}
    assert len(steps) > 4, "the bar moves between the records"
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is back"


@pytest.mark.parametrize("why", ["disable_tqdm", "dumb terminal", "no terminal"])
def test_plain_lines_elsewhere(tmp_path: Path, why: str) -> None:
    arguments = [str(tmp_path), "disable" if why == "disable_tqdm" else "bar", "preempted"]
    if why == "no terminal":
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.returncode == 0
        assert done.stderr == "WARNING: a warning\n"
        shown = done.stdout
    else:
        shown = on_a_terminal(*arguments, TERM="dumb" if why == "dumb terminal" else "xterm")
    assert "\x1b" not in shown
    lines = [line for line in shown.splitlines() if "WARNING" not in line]
    assert lines[0] == f"night: 300 steps in {tmp_path}"
    assert re.fullmatch(
        r"step 100/300  epoch 1.00  loss 1.235  learning_rate 0.0001  [\d,.]+ steps/s, 0:00:0\d left", lines[1]
    )
    assert lines[2] == "step 100/300  epoch 1.00  eval_loss 2.5  eval_accuracy 0.75  eval_runtime 0.1"
    assert lines[-5].startswith("preempted: step 300/300 in ")
    assert lines[-1] == "False", "rich is imported for a bar alone"
