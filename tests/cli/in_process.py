"""Runs command lines in one process and says what each left: `python -m tests.cli.in_process < cases.json`.

A case has `argv`, and may have `files` (path -> text, in the working directory), `env` and `verb` (default: train).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any


class Began(BaseException):
    """The command line was taken: training would begin."""


class TooLong(BaseException):
    """The command line was not answered within LIMIT_S."""


LIMIT_S = 5


def _too_long(*_: object) -> None:
    raise TooLong


class Stop:
    """Refuses to import what begins a run."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in self.names:
            raise Began(name)


def _refuse_processes(event: str, arguments: Any) -> None:
    if event == "subprocess.Popen" and "child_main" in str(arguments):  # a trial's, or a rank's
        raise Began(event)


def run(case: dict[str, Any]) -> dict[str, Any]:
    """One command line in an empty directory: exit code, lines of stderr, files left, seconds."""
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as name, _surroundings(Path(name), case) as before:
        started = time.perf_counter()
        code: Any = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            signal.alarm(LIMIT_S)
            try:
                main = import_module(f"trainer.cli.{case.get('verb', 'train')}").main
                code = main([*case["argv"]])
            except SystemExit as error:
                code = error.code
            except Began:
                code = "began"
            except TooLong:
                code = "hangs"
            except BaseException:  # what a user would see as a traceback
                code = "traceback"
                traceback.print_exc()
            finally:
                signal.alarm(0)
        seconds = time.perf_counter() - started
        left = sorted(_files(Path(name)) - before)
    return {
        "code": code,
        "lines": err.getvalue().splitlines(),
        "stdout": out.getvalue(),
        "left": left,
        "seconds": seconds,
        "torch": "torch" in sys.modules,
    }


def _files(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if "__pycache__" not in p.parts}


@contextlib.contextmanager
def _surroundings(root: Path, case: dict[str, Any]) -> Iterator[set[str]]:
    """The case's files, environment and working directory; import paths and modules are put back."""
    for path, text in case.get("files", {}).items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("latin-1") if case.get("binary") else text.encode())
    environment, paths, modules, here = dict(os.environ), list(sys.path), set(sys.modules), Path.cwd()
    for name in [n for n in os.environ if n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "HF_TOKEN")]:
        del os.environ[name]
    os.environ.update(case.get("env", {}))
    os.chdir(root)
    try:
        yield _files(root)
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = paths
        sys.path_importer_cache.pop(str(root), None)
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(root)):
                del sys.modules[name]


if __name__ == "__main__":
    sys.meta_path.insert(0, Stop("trainer.train.session", *sys.argv[1:]))  # type: ignore[arg-type]
    sys.addaudithook(_refuse_processes)
    signal.signal(signal.SIGALRM, _too_long)
    print(json.dumps([run(case) for case in json.load(sys.stdin)]))
