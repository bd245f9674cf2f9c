"""The terminal: a progress bar, or plain lines where the output is not a terminal, and a summary at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..schema.logging import Console as ConsoleNode
from ..state import RunInfo
from .reporter import Reporter

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

REFRESH_RATE = 4
"""Redraws of the bar per second, in its own thread; under 1 % of a core."""


class Console(Reporter):
    """Step, loss, speed and time left. The bar reads the step in its own thread, so the loop never calls it."""

    def __init__(self, node: ConsoleNode) -> None:
        self._bar: Progress | None = None
        self._latest: dict[str, Any] = {}
        self._run: RunInfo | None = None

    def start(self, run: RunInfo) -> None:
        self._run = run
        self._started = time.perf_counter()
        self._line_before = (run.resumed_step, self._started)
        plain = run.config.get("logging", {}).get("disable_tqdm") or os.environ.get("TERM") == "dumb"
        print(f"{run.run_name}: {self.progress()[1]} steps in {run.directory}" + _resumed(run.resumed_step), flush=True)
        if sys.stdout.isatty() and not plain:
            self._bar = _bar(self.progress)
            self._bar.start()

    def log(self, record: dict[str, Any]) -> None:
        self._latest |= record
        if "train_runtime" in record:
            return
        if self._bar is None:
            print(self._line(record), flush=True)
        elif "loss" in record:
            self._bar.update(self._bar.task_ids[0], loss=f"loss {record['loss']:.4f}")
        else:
            self._bar.print(self._line(record), markup=False, highlight=False, soft_wrap=True)

    def finish(self, status: str) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._run is None:  # the run failed before it started: its error line says why
            return
        print(*self._summary(self._run, status), sep="\n", flush=True)

    def _line(self, record: dict[str, Any]) -> str:
        """One record as a line: progress, metrics, speed."""
        step, steps = record["step"], self.progress()[1]
        parts = [f"step {step:>{len(str(steps))}}/{steps}", f"epoch {record['epoch']:.2f}", *_numbers(record)]
        (step_before, time_before), self._line_before = self._line_before, (step, time.perf_counter())
        if step > step_before:
            seconds = (self._line_before[1] - time_before) / (step - step_before)
            parts.append(f"{_rate(1 / seconds)}, {timedelta(seconds=round((steps - step) * seconds))} left")
        return "  ".join(parts)

    def _summary(self, run: RunInfo, status: str) -> Iterable[str]:
        latest, (step, steps) = self._latest, self.progress()
        seconds = latest.get("train_runtime", time.perf_counter() - self._started)
        speed = _rate((step - run.resumed_step) / seconds)
        if "train_samples_per_second" in latest:
            speed += f", {latest['train_samples_per_second']:,.0f} samples/s"
        yield f"{status}: step {step}/{steps} in {seconds:.1f} s ({speed})"
        for keys in (
            ("loss", "train_loss"),
            [key for key in latest if key.startswith(("eval_", "test_")) and not _is_speed(key)],
        ):
            if numbers := _numbers({key: latest[key] for key in keys if key in latest}):
                yield "  ".join(numbers)
        yield f"directory: {run.directory}"


def _resumed(step: int) -> str:
    return f", resuming after step {step}" if step else ""


def _rate(steps_per_second: float) -> str:
    return f"{steps_per_second:,.0f} steps/s" if steps_per_second >= 100 else f"{steps_per_second:.3g} steps/s"


def _is_speed(key: str) -> bool:
    return key.endswith(("_runtime", "_per_second"))


def _numbers(record: dict[str, Any]) -> list[str]:
    values = {key: value for key, value in record.items() if key not in ("step", "epoch", "time")}
    return [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()]


def _bar(progress: Callable[[], tuple[int, int]]) -> Progress:
    """The progress bar. rich, whose import takes 0.1 s, is imported only for a terminal."""
    from rich.file_proxy import FileProxy
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    class Bar(Progress):
        """Reads the step whenever it is drawn."""

        def get_renderables(self) -> Iterable[RenderableType]:
            for task in self.tasks:
                done, steps = progress()
                rate = _rate(task.speed) if task.speed else ""
                self.update(task.id, completed=done, total=steps, rate=rate)
            yield from super().get_renderables()

    def write_directly() -> None:
        """Bypass the bar in a forked DataLoader worker: its lock may have been held at the moment of the fork."""
        for name in ("stdout", "stderr"):
            if isinstance(proxy := getattr(sys, name), FileProxy):
                setattr(sys, name, proxy.rich_proxied_file)

    os.register_at_fork(after_in_child=write_directly)
    bar = Bar(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        refresh_per_second=REFRESH_RATE,
    )
    done, steps = progress()
    bar.add_task("train", completed=done, total=steps, loss="", rate="")
    return bar
