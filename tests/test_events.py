from __future__ import annotations

import logging
import random
import sys
import threading
import time
import timeit
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer.callbacks.callback import Callback
from trainer.errors import ReporterError, describe
from trainer.events import Events
from trainer.logging.reporter import Reporter, build_reporters
from trainer.state import Control, RunInfo, State


@pytest.fixture
def run(tmp_path: Path) -> RunInfo:
    return RunInfo(
        directory=tmp_path, run_id="id", run_name="name", project="p", config={"optim": {"lr": 1}}, resumed_step=0
    )


class Recorder(Reporter):
    """Keeps what it hears; misbehaves in log() as told."""

    def __init__(self, misbehave: Any = lambda record: None) -> None:
        self.heard: list[Any] = []
        self.misbehave = misbehave

    def start(self, run: RunInfo) -> None:
        self.heard.append(("start", run, self.progress()))

    def log(self, record: dict[str, Any]) -> None:
        self.heard.append(record)
        self.misbehave(record)

    def finish(self, status: str) -> None:
        self.heard.append(status)


class Stopper(Callback):
    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def on_step_end(self, state: State, control: Control) -> None:
        self.seen += 1
        control.should_training_stop = state.step >= self.at

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Faulty(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_log(self, state: State, control: Control, logs: dict[str, Any]) -> None:
        raise self.error

    def on_exception(self, state: State, control: Control, error: BaseException) -> None:
        raise self.error


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


# Callbacks


def test_a_callback_steers_and_keeps_its_state() -> None:
    state, control, stopper = State(step=1), Control(), Stopper(at=2)
    events = Events({"stop": stopper, "silent": Callback()})
    events.on_step_end(state, control)
    assert not control.should_training_stop
    state.step = 2
    events.on_step_end(state, control)
    assert control.should_training_stop
    kept = events.state_dict()
    assert kept == {"stop": {"seen": 2}}
    again = Stopper(at=2)
    Events({"stop": again}).load_state_dict({**kept, "no_longer_configured": {"x": 1}})
    assert again.seen == 2


def test_an_exception_goes_through_and_names_the_callback() -> None:
    events = Events({"faulty": Faulty(ValueError("bad"))})
    with pytest.raises(ValueError, match="bad") as caught:
        events.on_log(State(), Control(), {})
    assert describe(caught.value) == "ValueError: bad (in callbacks.faulty.on_log)"


def test_sys_exit_in_a_callback_fails_the_run_instead_of_ending_it_as_if_done() -> None:
    with pytest.raises(RuntimeError, match=r"sys.exit\(0\) in callbacks.faulty.on_log"):
        Events({"faulty": Faulty(SystemExit(0))}).on_log(State(), Control(), {})


def test_a_failure_in_on_exception_does_not_hide_the_first_error(caplog: pytest.LogCaptureFixture) -> None:
    Events({"faulty": Faulty(ValueError("second"))}).on_exception(State(), Control(), RuntimeError("first"))
    assert "callbacks.faulty.on_exception" in caplog.text


def test_what_is_no_callback_is_refused() -> None:
    with pytest.raises(TypeError, match=r"callbacks.x must be a trainer.Callback, not object"):
        Events({"x": object()})  # type: ignore[dict-item]


def test_a_hook_nobody_overrides_is_free() -> None:
    events, state, control = Events({"silent": Callback()}, {"r": Recorder()}), State(), Control()
    assert min(timeit.repeat(lambda: events.on_step_end(state, control), number=20_000)) / 20_000 < 1e-6
    assert events.on_step_end.__func__ is Callback.on_step_end  # type: ignore[attr-defined]
    events.finish("completed")


# Reporters


def test_a_reporter_hears_everything_and_owns_its_copies(run: RunInfo) -> None:
    def spoil(record: dict[str, Any]) -> None:
        record.clear()

    first, second = Recorder(spoil), Recorder()
    events = Events({}, {"first": first, "second": second}, timeout=10)
    state = State(step=3, max_steps=9)
    events.start(run, state)
    first.heard[0][1].config["optim"]["lr"] = 2
    record = {"step": 1, "loss": 2.0}
    events.report(record)
    events.finish("completed")
    assert second.heard == [("start", run, (3, 9)), {"step": 1, "loss": 2.0}, "completed"]
    assert record == {"step": 1, "loss": 2.0}
    assert run.config == {"optim": {"lr": 1}}
    state.step = 4
    assert second.progress() == (4, 9)


def raises(record: dict[str, Any]) -> None:
    raise ConnectionError("gone")


def exits(record: dict[str, Any]) -> None:
    sys.exit(0)


def interrupts(record: dict[str, Any]) -> None:
    raise KeyboardInterrupt


def hangs_and_then_draws(record: dict[str, Any]) -> None:
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        time.sleep(0.01)
    draws()


@pytest.mark.parametrize("misbehave", [raises, exits, interrupts, hangs_and_then_draws])
def test_a_failing_reporter_is_switched_off_with_one_warning(
    misbehave: Any, run: RunInfo, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Recorder(misbehave), Recorder()
    events = Events({}, {"bad": bad, "good": good}, timeout=0.1)
    events.start(run, State())
    seed()
    expected = draws()
    seed()
    for step in (1, 2, 3):
        events.report({"step": step})
    time.sleep(0.6 if misbehave is hangs_and_then_draws else 0)
    assert draws() == expected
    events.finish("completed")
    assert [entry for entry in bad.heard if entry != bad.heard[0]] == [{"step": 1}]
    assert good.heard[1:] == [{"step": 1}, {"step": 2}, {"step": 3}, "completed"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("logging.reporters.bad is switched off, the run goes on: its log() failed: ")


def test_random_numbers_drawn_by_a_reporter_change_nothing(run: RunInfo) -> None:
    class Drawer(Recorder):
        def __init__(self, node: Any = None) -> None:
            super().__init__(lambda record: draws())
            draws()

        def start(self, run: RunInfo) -> None:
            draws()

        def finish(self, status: str) -> None:
            torch.manual_seed(7)

    seed()
    expected = draws()
    seed()
    events = Events({}, {"drawer": Drawer()}, timeout=10)
    seed()
    events.start(run, State())
    events.report({"step": 1})
    events.finish("completed")
    assert draws() == expected


def test_a_reporter_that_cannot_start_stops_the_run_and_closes_the_others(run: RunInfo) -> None:
    class Unstartable(Recorder):
        def start(self, run: RunInfo) -> None:
            raise PermissionError("no API key")

    good = Recorder()
    events = Events({}, {"good": good, "bad": Unstartable()}, timeout=10)
    with pytest.raises(ReporterError, match=r"logging.reporters.bad cannot start: PermissionError: no API key; fix"):
        events.start(run, State())
    assert good.heard[-1] == "failed"


def test_only_reporters_that_were_started_are_finished(caplog: pytest.LogCaptureFixture) -> None:
    silent = Recorder()
    Events({}, {"silent": silent}, timeout=10).finish("failed")
    assert silent.heard == []
    assert not caplog.records


def test_a_reporter_that_cannot_be_built_is_named() -> None:
    with pytest.raises(ReporterError, match=r"logging.reporters.bad cannot start: ZeroDivisionError"):
        build_reporters({"bad": {"_target_": "fractions.Fraction", "_args_": [1, 0]}})
    with pytest.raises(ReporterError, match=r"Fraction is not a trainer.Reporter"):
        build_reporters({"bad": {"_target_": "fractions.Fraction"}})


def test_no_thread_is_left(run: RunInfo) -> None:
    events = Events({}, {"r": Recorder()}, timeout=10)
    events.start(run, State())
    events.finish("completed")
    deadline = time.monotonic() + 5
    while any(thread.name == "reporter-r" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c_while_a_reporter_works_stays_itself(run: RunInfo) -> None:
    import signal

    main = threading.main_thread().ident
    assert main is not None

    def slow(record: dict[str, Any]) -> None:
        signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.3)

    events = Events({}, {"slow": Recorder(slow)}, timeout=10)
    events.start(run, State())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            events.report({"step": 1})
    finally:
        signal.signal(signal.SIGINT, before)
    events.finish("stopped")
