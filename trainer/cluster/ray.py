"""`cluster=ray`: runs become jobs of a Ray cluster, submitted by its job API and scheduled by Ray."""

from __future__ import annotations

import os
import pickle
import shlex
import shutil
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..launch.outcome import exit_code
from ..launch.prepared import Prepared
from ..launch.start import start
from ..schema.cluster import Ray

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

FOLDER = "ray"
"""Folder in a run's directory for the pickle."""


class RayCluster:
    """Submits to the dashboard's address."""

    def __init__(self, node: Ray) -> None:
        self.node = node

    def submit(self, runs: list[Prepared]) -> list[str]:
        from ray.job_submission import JobSubmissionClient

        try:
            client = JobSubmissionClient(self.node.address)
        except ConnectionError as error:
            raise RuntimeError(f"ray: {error}") from None
        return [self._submit(client, run) for run in runs]

    def _submit(self, client: JobSubmissionClient, run: Prepared) -> str:
        node = run.config.cluster
        assert isinstance(node, Ray)
        job = f"{run.directory.name}-{uuid.uuid4().hex[:8]}"
        folder = run.directory / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)  # the pickle holds the config's secrets
        file = folder / f"{job}.pkl"
        file.write_bytes(pickle.dumps(replace(run, notes={"ray": {"job_id": job}})))
        paths = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
        variables = {"PYTHONPATH": os.pathsep.join(paths)} | node.runtime_env.get("env_vars", {})
        command = shlex.join([sys.executable, "-m", __name__, str(file)])
        try:
            client.submit_job(
                submission_id=job,
                entrypoint=f"cd {shlex.quote(os.getcwd())} && exec {command}",
                entrypoint_num_cpus=node.entrypoint_num_cpus,
                entrypoint_num_gpus=node.entrypoint_num_gpus,
                runtime_env=node.runtime_env | {"env_vars": variables},
            )
        except RuntimeError:
            shutil.rmtree(folder)
            raise
        return job


def main(file: str) -> int:
    """Run what the pickle of `submit` holds; the exit code."""
    run: Prepared = pickle.loads(Path(file).read_bytes())
    return exit_code(lambda: start(run))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
