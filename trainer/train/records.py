"""The run's records: rows of metrics.jsonl, which reporters and callbacks get as well."""

from __future__ import annotations

import math
import time
from typing import Any

from ..errors import NotFinite
from ..events import Events
from ..logging.jsonl import MetricsFile
from ..state import Control, State
from .meter import Meter
from .tokens import TokenCounter


class Records:
    """Writes what was measured, with the values that callbacks logged through Control.log."""

    def __init__(
        self,
        file: MetricsFile | None,
        *,
        state: State,
        control: Control,
        events: Events,
        meter: Meter,
        tokens: TokenCounter | None,
        nan_inf_filter: bool,
    ) -> None:
        """``file`` is None except on rank 0."""
        self.file, self.state, self.control, self.events = file, state, control, events
        self.meter, self.tokens, self.nan_inf_filter = meter, tokens, nan_inf_filter
        self.latest: dict[str, Any] = {}
        """The last value of every name."""
        self.started = time.perf_counter()
        self.first_step = 0
        """The step that this process started from."""

    def start(self) -> None:
        """Measure speed from here."""
        self.started, self.first_step = time.perf_counter(), self.state.step

    def write(self, values: dict[str, Any]) -> dict[str, Any]:
        """Write one record; returns the values with those of the callbacks."""
        state, logged = self.state, self.control.take_values()
        if taken := logged.keys() & {"step", "epoch", "time", *values}:
            raise ValueError(f"control.log: the record has a {min(taken)} of its own; fix: another name")
        values = values | logged
        self.latest |= values
        if self.file is not None:
            record = {"step": state.step, "epoch": state.epoch, "time": time.time(), **values}
            self.file.write(record)
            self.events.report(record)
        return values

    def write_training(self, rate: float) -> None:
        """The mean loss since the last record, the last step's gradient norm and learning rate (collective).

        Raises NotFinite if the mean loss is not finite.
        """
        meter = self.meter
        steps, loss, norm = meter.steps, meter.reduce(), meter.grad_norm
        record = {"loss": loss, "grad_norm": None if norm is None else float(norm), "learning_rate": rate}
        if left_out := meter.left_out:
            record["nan_inf_count"], meter.left_out = left_out, 0
            if not (self.nan_inf_filter and steps):  # without a step there is no mean
                record["loss"] = math.nan
        record = self.write(record | self._token_metrics())
        self.events.on_log(self.state, self.control, record)
        if not math.isfinite(loss):
            raise NotFinite(f"step {self.state.step}: the mean loss since the last log is {loss}")

    def write_summary(self, samples: int, memory: dict[str, Any]) -> None:
        """The last record of a training, with the Trainer's keys (collective). ``samples``: those of this process."""
        runtime, step = time.perf_counter() - self.started, self.state.step
        self.meter.reduce()
        self.write(
            {
                "train_loss": self.meter.whole / max(1, step),
                "train_runtime": runtime,
                "train_samples_per_second": samples / runtime,
                "train_steps_per_second": (step - self.first_step) / runtime,
                **self._token_metrics(),
                **memory,
            }
        )

    def _token_metrics(self) -> dict[str, float]:
        if self.tokens is None:
            return {}
        seen = self.state.num_input_tokens_seen = self.tokens.total()
        rate = (seen - self.tokens.resumed) / (time.perf_counter() - self.started)
        total = {"num_input_tokens_seen": seen} if self.tokens.reports_total else {}
        return total | {"train_tokens_per_second": rate}
