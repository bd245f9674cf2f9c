"""A job of a real, local Ray; skipped where Ray is not installed (pip install 'ray[default]')."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm import wait_for
from tests.ranks import free_port

pytestmark = pytest.mark.slow
TRAIN = Path(__file__).parents[2] / "train.py"


def test_a_job(tmp_path: Path) -> None:
    pytest.importorskip("ray.job_submission", exc_type=ImportError)
    port, dashboard = free_port(), free_port()
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = ["start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2", "--block"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with (tmp_path / "ray.log").open("wb") as log:
        server = subprocess.Popen([*ray, *head], env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"cluster.address=http://127.0.0.1:{dashboard}"
        overrides = ["experiment=digits", "logging=none", "train.max_steps=3", "run.use_cpu=true", "hydra.run.dir=run"]
        command = [sys.executable, str(TRAIN), "cluster=ray", address, "cluster.entrypoint_num_cpus=1", *overrides]
        said: list[str] = []

        def submitted() -> bool:
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            said[:] = [done.stdout, done.stderr]
            return done.returncode == 0

        wait_for(submitted, "the dashboard takes the job", 90)
        assert re.search(rf"^job run-\w+: {tmp_path}/run$", said[0], re.MULTILINE), said
        manifest = tmp_path / "run" / "manifest.json"
        wait_for(lambda: json.loads(manifest.read_text())["status"] == "completed", "the run", 120)
        assert json.loads(manifest.read_text())["ray"]
    finally:
        server.terminate()
        server.wait(60)
