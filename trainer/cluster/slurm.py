"""`cluster=slurm`: submitit makes a run a job, and a sweep a job array. Job scripts run this module: restart()."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

from ..launch.outcome import EXIT_CODES, exit_code
from ..launch.prepared import Prepared
from ..launch.start import start
from ..launch.torchrun import join
from ..run import directory as run_directory
from ..run.directory import Status
from ..schema.cluster import Slurm
from .srun import rank_environment

FOLDER = "slurm"
"""Folder in a run's or a sweep's directory for the job's script, pickle and output."""
PREEMPT_SIGNAL = "USR1"
NOT_SBATCHS = ("_target_", "max_num_timeout", "signal_delay_s", "setup", "array_parallelism", "additional_parameters")


class SlurmCluster:
    """Submits by sbatch."""

    def __init__(self, node: Slurm) -> None:
        self.node = node

    def submit(self, runs: list[Prepared]) -> list[str]:
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = PREEMPT_SIGNAL  # read when submitit is imported
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        folder = (runs[0].directory if len(runs) == 1 else runs[0].directory.parent) / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)  # the pickles hold the config's secrets
        parameters = [_parameters(run, folder, sweep=len(runs) > 1) for run in runs]
        jobs: dict[int, Any] = {}
        while missing := [number for number in range(len(runs)) if number not in jobs]:
            # one array per kind of job: a sweep may go over cluster=slurm_v100,slurm_h100
            alike = [number for number in missing if parameters[number] == parameters[missing[0]]]
            executor = SlurmExecutor(folder, max_num_timeout=runs[alike[0]].config.cluster.max_num_timeout)
            executor.update_parameters(**parameters[alike[0]])
            try:
                with _outside_of_jobs(), redirect_stderr(StringIO()):  # submitit prints what it raises
                    array = executor.submit_array([SlurmJob(runs[number]) for number in alike])
            except FailedJobError as error:
                for job in jobs.values():
                    job.cancel()
                shutil.rmtree(folder)
                raise RuntimeError(" ".join(str(error).split())) from None
            jobs |= dict(zip(alike, array, strict=True))
        return [str(jobs[number].job_id) for number in range(len(runs))]


@dataclass
class SlurmJob:
    """What a task of the job calls; submitit pickles it, and pickles it again before it requeues the job."""

    run: Prepared

    def __call__(self) -> None:
        from ..train import interrupts

        job, restarts = _job_id(), int(os.environ.get("SLURM_RESTART_COUNT", 0))
        restarted = any(one.get("job_id") == job for one in run_directory.read(self.run.directory).get("restarts", []))
        notes = {"slurm": {"job_id": job, "restarts": restarts}}
        run = replace(self.run, requeued=restarts > 0 or restarted, notes=notes)
        os.environ.update(rank_environment())
        code = exit_code(lambda: join(lambda: run) if "RANK" in os.environ else start(run))
        if code == EXIT_CODES[Status.preempted] and interrupts.last == signal.SIGUSR1:
            # the checkpoint is saved, and submitit's handler is in place again: it requeues the job and exits. SIGTERM
            # requeues nothing: it is scancel's, or a preemption's, after which Slurm itself requeues the job
            signal.raise_signal(signal.SIGUSR1)
        elif code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """submitit asks what the requeued job calls: the same."""
        from submitit.helpers import DelayedSubmission

        run_directory.update(self.run.directory, status=Status.queued)
        return DelayedSubmission(self)


def _job_id() -> str:
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def restart(folder: str, code: int, number: int) -> bool:
    """Whether the job's script is to restart the ranks, for launch.max_restarts on several machines; the manifest
    records it. Runs on the first machine.

    Args:
        folder: submitit's.
        code: the exit code of srun.
        number: of the restart, from 1.
    """
    from submitit import JobEnvironment
    from submitit.core.utils import DelayedSubmission

    os.environ["SUBMITIT_FOLDER"] = folder
    job: Any = DelayedSubmission.load(JobEnvironment().paths.submitted_pickle).function
    run: Prepared = job.run
    manifest, max_restarts = run_directory.read(run.directory), run.config.launch.max_restarts
    if manifest["status"] not in (Status.failed, Status.running) or manifest.get("final"):
        return False
    signals = {128 + number: number.name for number in signal.Signals}
    how = f"was killed by {signals[code]}" if code in signals else f"exited with code {code} before its end"
    error = manifest["error"] or f"a rank {how}"
    if number > max_restarts:
        if manifest["status"] == Status.running:  # no rank could record it
            run_directory.finish(run.directory, Status.failed, error=error)
        return False
    print(f"restart {number} of {max_restarts}: {error}", file=sys.stderr)
    run_directory.restarted(run.directory, error, job_id=_job_id())
    run_directory.update(run.directory, status=Status.queued)
    return True


def _parameters(run: Prepared, folder: Path, sweep: bool) -> dict[str, Any]:
    """submitit's parameters, from the config."""
    node, launch = run.config.cluster, run.config.launch
    assert isinstance(node, Slurm)
    given = {f.name: value for f in fields(node) if (value := getattr(node, f.name)) is not None}
    several = launch.nnodes > 1
    # only what the submitting process added: the job's interpreter has its own paths
    paths = [path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))]
    setup = [f"export PYTHONPATH={shlex.quote(os.pathsep.join(paths))} SUBMITIT_PREEMPT_SIGNAL={PREEMPT_SIGNAL}"]
    restart = []
    if several and launch.max_restarts:  # submitit's script calls srun once; this function calls it until it succeeds
        ask = shlex.join([sys.executable, "-m", __name__, str(folder)])
        loop = f'until command srun "$@"; do code=$?; {ask} $code $((++n)) || return $code; done'
        restart = [f"srun() {{ local code n=0; {loop}; }}"]
    name = run.config.run.run_name or (run.directory.parent if sweep else run.directory).name
    return {name: value for name, value in given.items() if name not in NOT_SBATCHS} | {
        "job_name": name,
        "nodes": launch.nnodes,
        "ntasks_per_node": (launch.nproc_per_node or node.gpus_per_node or 1) if several else 1,
        "setup": setup + node.setup + restart,
        "signal_delay_s": node.signal_delay_s,
        "array_parallelism": node.array_parallelism,
        "stderr_to_stdout": True,
        "additional_parameters": node.additional_parameters | {"requeue": True},
        "srun_args": ["--kill-on-bad-exit=1"],  # ends a rank that hangs with those that failed
    }


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of a surrounding job: sbatch passes its environment on, and that job's limits with it."""
    inherited = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("SLURM_") and k != "SLURM_CONF"}
    try:
        yield
    finally:
        os.environ.update(inherited)


if __name__ == "__main__":
    sys.exit(not restart(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
