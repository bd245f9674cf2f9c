"""`cluster`: who starts the run. null: this command, on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .fields import number


@dataclass(kw_only=True, slots=True)
class Slurm:
    """A Slurm job, submitted by submitit; a sweep is one job array. Names are sbatch's and submitit's.

    On one machine the job is one task, which starts the ranks as a local run does; on several (launch.nnodes) srun
    starts one task per rank, launch.nproc_per_node of them on each, and the job's script starts them again when one has
    failed (launch.max_restarts).
    """

    _target_: str = "trainer.cluster.slurm.SlurmCluster"
    partition: str | None = None
    """Partition to wait in (sbatch --partition). None: Slurm's default."""
    time: int = number(60, minimum=1)
    """Minutes that the job may run (sbatch --time). At its end it saves, and is queued again."""
    qos: str | None = None
    """Quality of service (sbatch --qos)."""
    account: str | None = None
    """Account that pays (sbatch --account)."""
    gpus_per_node: int | None = number(None, minimum=0)
    """GPUs on each machine (sbatch --gpus-per-node). None: none is asked for."""
    cpus_per_task: int | None = number(None, minimum=1)
    """CPU cores of a task (sbatch --cpus-per-task): on one machine of the whole job, on several of each rank."""
    mem: str | None = None
    """Memory on each machine, such as 64GB (sbatch --mem)."""
    constraint: str | None = None
    """Features that the machines must have (sbatch --constraint)."""
    setup: list[str] = field(default_factory=list)
    """Shell lines that run on the first machine before the job, such as `module load cuda` (submitit: setup)."""
    signal_delay_s: int = number(120, minimum=1)
    """Seconds before the end of `time` at which SIGUSR1 asks for a checkpoint (submitit: signal_delay_s, there 90).
    Slurm's clock may send it up to 60 s early."""
    max_num_timeout: int = number(100, minimum=0)
    """How many times a job that came to the end of its time is queued again (submitit: max_num_timeout, there 3).
    After a preemption it always is."""
    array_parallelism: int = number(256, minimum=1)
    """Trials of a sweep that may run at the same time (submitit: array_parallelism)."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch, by its name: {nice: 100, exclusive: true} (submitit: additional_parameters)."""


@dataclass(kw_only=True, slots=True)
class Ray:
    """A job of a Ray cluster that is there already, submitted by its job API. Its machines share this file system."""

    _target_: str = "trainer.cluster.ray.RayCluster"
    address: str | None = None
    """The dashboard, http://HOST:8265. None: the environment's RAY_API_SERVER_ADDRESS, else this machine's."""
    entrypoint_num_cpus: float | None = number(None, minimum=0)
    """CPU cores that the job holds (ray: entrypoint_num_cpus). None: Ray reserves none."""
    entrypoint_num_gpus: float | None = number(None, minimum=0)
    """GPUs that the job holds, all on one machine (ray: entrypoint_num_gpus). None: none."""
    runtime_env: dict[str, Any] = field(default_factory=dict)
    """What Ray prepares for the job, such as {env_vars: {A: b}} (ray: runtime_env)."""
