"""Bad input, as a table: exit code 2, exactly these lines, nothing left on the disk, no torch.

The cases of bad_input.json run in one process. In their lines {ROOT} is the checkout and {CORES} the number of cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*"))
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "cli" / "bad_input.json").read_text())


def _name(case: dict[str, Any]) -> str:
    return " ".join([case.get("verb", ""), *case["argv"]]).strip()[:80]


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.in_process"],
        cwd=ROOT,
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere", "HYDRA_FULL_ERROR": "0"},
    )
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(_name, CASES))
def test_bad_input(results: list[dict[str, Any]], number: int) -> None:
    case, found = CASES[number], results[number]
    words = {"{ROOT}": str(ROOT), "{CORES}": str(os.cpu_count())}
    expected = case["lines"]
    for word, value in words.items():
        expected = [line.replace(word, value) for line in expected]
    if HAS_GPU and any("GPU" in line for line in expected):
        pytest.skip("this machine has a GPU")
    assert found["lines"] == expected
    assert found["code"] == 2
    assert found["left"] == []
    assert not found["torch"]


def test_no_case_is_there_twice() -> None:
    keys = [json.dumps({k: v for k, v in case.items() if k != "lines"}, sort_keys=True) for case in CASES]
    assert len(keys) == len(set(keys))
