"""Fixtures that every test may use, the marker of those that start processes, and what no test may leave behind."""

from __future__ import annotations

import functools
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests import ranks
from tests.devices import DEVICE_TYPES, DEVICES, GPUS, chosen
from trainer.config.composer import Composition
from trainer.config.composer import compose as compose_config

SKIPPED, GPU_TEST_S = 77, 280.0


@pytest.fixture
def compose() -> Callable[..., Composition]:
    """``compose(*overrides)``: a checked composition, its ``config`` typed."""

    def composed(*overrides: str, **settings: Any) -> Composition:
        return compose_config(overrides, **settings)

    return composed


def _on(devices: list[torch.device]) -> list[Any]:
    return [pytest.param(d, id=str(d), marks=() if d.type == "cpu" else pytest.mark.gpu) for d in devices]


@pytest.fixture(scope="module", params=_on(DEVICES))
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The CPU, and every GPU of this machine: what runs and engines use meanwhile."""
    with chosen(request.param) as made:
        yield made


@pytest.fixture(scope="module", params=_on([torch.device(kind) for kind in DEVICE_TYPES]))
def device_type(request: pytest.FixtureRequest) -> Iterator[str]:
    """``cpu``, and ``cuda`` where there is a GPU, for tests of ranks: each takes its own GPU."""
    with chosen(request.param) as made:
        yield made.type


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Call a test on a GPU in a child, so that this process never initialises CUDA and can fork ranks."""
    if pyfuncitem.get_closest_marker("gpu") is None:
        return None
    if not GPUS:
        pytest.skip("needs a GPU")

    def call() -> None:
        try:
            pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
        except pytest.skip.Exception as skipped:
            print(skipped, file=sys.stderr)
            os._exit(SKIPPED)

    code = ranks.wait(ranks.fork(call, timeout=GPU_TEST_S), GPU_TEST_S + 5)
    if code == SKIPPED:
        pytest.skip("skipped on the GPU; the reason is in the captured stderr")
    assert code == 0, "failed on the GPU; the traceback is in the captured stderr"
    return True


# Tests that start processes ------------------------------------------------------------------------------------------

_STARTERS = ("subprocess", "multiprocessing", "tests.ranks")
GUARD = "_nothing_left"
_started: list[str] = []


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen" and args[1][0] != "git" and not _compiles():  # each run asks git in 10 ms
        _started.append(str(args[1]))


def _compiles() -> bool:
    """Whether torch or DeepSpeed is compiling: that depends on what its cache holds, not on the test."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(("torch._", "torch.utils.cpp_extension", "deepspeed.ops")):
            return True
        frame = frame.f_back
    return False


sys.addaudithook(_hear)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test whose code, or whose fixtures' code, reaches a module that starts processes."""
    for item in items:
        assert isinstance(item, pytest.Function)
        fixtures = [found[-1].func for name, found in item._fixtureinfo.name2fixturedefs.items() if name != GUARD]
        if any(_reaches_processes(function) for function in (item.function, *fixtures)):
            item.add_marker(pytest.mark.processes)


@functools.cache
def _reaches_processes(root: Callable[..., Any]) -> bool:
    seen: set[int] = set()
    queue: list[Any] = [root]
    while queue:
        found = queue.pop()
        if getattr(found, "__module__", None) in _STARTERS:
            return True
        if isinstance(found, type):
            queue += vars(found).values()
        function = getattr(found, "__wrapped__", found)
        module = getattr(function, "__module__", None) or ""
        if id(function) in seen or not isinstance(function, types.FunctionType) or not module.startswith("tests."):
            continue
        seen.add(id(function))
        names = set(_names(function.__code__))
        for value in [function.__globals__.get(name) for name in names]:
            if not isinstance(value, types.ModuleType):
                queue.append(value)
            elif value.__name__ in _STARTERS:
                return True
            elif value.__name__.startswith("tests."):
                queue += [getattr(value, name, None) for name in names]
    return False


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


# What no test may leave behind ---------------------------------------------------------------------------------------

_SIGNALS = [getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "USR1", "USR2")]
_OF_LIBRARIES = (
    "PYTEST_",
    "TORCHINDUCTOR_",
    "_TORCHINDUCTOR_",
    "TRITON_",
    "KMP_",
    "DS_ACCELERATOR",
    "CUDA_MODULE_LOADING",
)
"""Environment variables that pytest, or a library at its first use, sets for the whole process."""


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves an environment variable, a signal handler or a child, or starts a process unmarked."""
    environment, handlers = _environment(), [signal.getsignal(number) for number in _SIGNALS]
    _started.clear()
    yield
    changed = {name for name, _ in environment.items() ^ _environment().items()}
    moved = [
        number.name for number, handler in zip(_SIGNALS, handlers, strict=True) if signal.getsignal(number) != handler
    ]
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    assert not changed, "the test leaves these environment variables changed"
    assert not moved, "the test leaves handlers of these signals"
    assert not ranks.reap(), "the test leaves these children"
    if not request.node.get_closest_marker("processes"):
        assert not _started, "the test starts processes: mark it pytest.mark.processes"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OF_LIBRARIES)}
