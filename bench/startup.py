"""Seconds until `--cfg job` answers, and until the first step, beside the least that could do the same."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 9

EMPTY_APP = """
import hydra
@hydra.main(config_path=None, version_base="1.3")
def main(cfg): pass
main()
"""
ONE_STEP = """
import os
import parts
import torch
model = parts.Net()
optimizer = torch.optim.AdamW(parts.groups(model), lr=1e-3, fused=True)
x, y = parts.dataset()[:32]
torch.nn.functional.cross_entropy(model(x), y).backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
os._exit(0)
"""
OVERRIDES = """
import parts
print(*parts.SETTINGS, sep="\\n")
"""


def run(*arguments: str, cwd: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "bench") + os.pathsep + str(ROOT)}
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)
    if result.returncode:
        sys.exit(f"{' '.join(arguments)[:300]}\nexit code {result.returncode}\n{result.stderr[-2000:]}")
    return result


def seconds(*arguments: str, cwd: str) -> float:
    begin = time.perf_counter()
    run(*arguments, cwd=cwd)
    return time.perf_counter() - begin


def main() -> None:
    train = str(ROOT / "train.py")
    with tempfile.TemporaryDirectory() as cwd:
        empty = Path(cwd, "empty.py")
        empty.write_text(EMPTY_APP)
        settings = run("-c", OVERRIDES, cwd=cwd).stdout.split()
        first_step = [train, *settings, "train.max_steps=1", "+callbacks.exit._target_=parts.ExitAfterStep"]
        commands = {
            "train.py --cfg job": [train, "--cfg", "job"],
            "an empty Hydra app's --cfg job": [str(empty), "--cfg", "job"],
            "train.py to its first step": first_step,
            "a script that imports torch and steps once": ["-c", ONE_STEP],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for i in range(ROUNDS + 1):
            for name, command in commands.items():
                value = seconds(*command, cwd=cwd)
                if i:  # the first round compiles bytecode and fills the page cache
                    times[name].append(value)
        imported = run("-X", "importtime", train, "--cfg", "job", cwd=cwd).stderr

    table = Table(title=f"Start: medians of {ROUNDS} interleaved rounds")
    for column in ("", "seconds", "fastest"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in times.items():
        table.add_row(name, f"{statistics.median(values):.2f}", f"{min(values):.2f}")
    Console().print(table)
    job, app, step, script = times.values()
    ratio = statistics.median(a / b for a, b in zip(job, app, strict=True))
    extra = statistics.median(a - b for a, b in zip(step, script, strict=True))
    modules = {line.rpartition("|")[2].strip() for line in imported.splitlines()}
    heavy = sorted(modules & {"torch", "deepspeed", "wandb", "transformers", "sklearn"})
    bars = [
        (f"--cfg job / empty app: {ratio:.2f}, bar 1.5", ratio <= 1.5),
        (f"first step - script: {extra:.2f} s, bar 0.5 s", extra <= 0.5),
        (f"heavy packages imported by --cfg job: {', '.join(heavy) or 'none'}", not heavy),
    ]
    for what, met in bars:
        print(f"{what}: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
