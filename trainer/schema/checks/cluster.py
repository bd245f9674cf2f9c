"""Rules of `cluster`."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import cluster
from ..config import Config
from .sentences import wrong


def gpus(config: Config) -> Iterator[Problem]:
    """GPUs that are asked for are used."""
    count, ranks = getattr(config.cluster, "gpus_per_node", None), config.launch.nproc_per_node
    if count and config.run.use_cpu:
        fix = "cluster.gpus_per_node=0"
        yield wrong("cluster.gpus_per_node", count, "would stay idle with run.use_cpu=true", fix=fix)
    if count and ranks and ranks > count:
        what, fix = f"is more than cluster.gpus_per_node={count}", f"launch.nproc_per_node={count}"
        yield wrong("launch.nproc_per_node", ranks, what, fix=fix, related=("cluster",))


def one_machine(config: Config) -> Iterator[Problem]:
    """A Ray job is one process and the ranks that it starts."""
    if isinstance(config.cluster, cluster.Ray) and config.launch.nnodes > 1:
        fix = "launch.nnodes=1 (or cluster=slurm)"
        yield wrong("launch.nnodes", config.launch.nnodes, "a Ray job has one machine", fix=fix, related=("cluster",))


RULES = (gpus, one_machine)
