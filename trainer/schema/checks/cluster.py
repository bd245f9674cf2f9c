"""Rules of checks.py about clusters and machines."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from ...errors import Problem
from .. import cluster, parallel
from ..config import Config


def machines(config: Config) -> Iterator[Problem]:
    """Several machines need an engine of several ranks."""
    wanted = config.launch.nnodes
    if wanted == 1:
        return
    if isinstance(config.parallel, parallel.Single):
        what = "needs an engine for several ranks"
        yield Problem(key="launch.nnodes", value=wanted, what=what, fix="parallel=ddp", related=("parallel",))


def gpus(config: Config) -> Iterator[Problem]:
    """GPUs that are asked for are used."""
    wanted = getattr(config.cluster, "gpus_per_node", None)
    if wanted and config.run.use_cpu:
        what, fix = "would stay idle with run.use_cpu=true", "cluster.gpus_per_node=0"
        yield Problem(key="cluster.gpus_per_node", value=wanted, what=what, fix=fix, related=("run.use_cpu",))
    ranks = config.launch.nproc_per_node
    if wanted and ranks and ranks > wanted:
        what, fix = f"is more than cluster.gpus_per_node={wanted}", f"launch.nproc_per_node={wanted}"
        yield Problem(
            key="launch.nproc_per_node", value=ranks, what=what, fix=fix, related=("cluster.gpus_per_node", "cluster")
        )


def package(config: Config) -> Iterator[Problem]:
    """What submits is installed."""
    needed = {cluster.Slurm: ("submitit", "submitit"), cluster.Ray: ("ray", "'ray[default]'")}
    module, name = needed.get(type(config.cluster), (None, ""))
    if module is not None and find_spec(module) is None:
        what, fix = f"needs the package {module}, which is not installed", f"pip install {name}"
        yield Problem(key="cluster", what=what, fix=fix)


def one_machine(config: Config) -> Iterator[Problem]:
    """A Ray job is one process and the ranks that it starts."""
    if isinstance(config.cluster, cluster.Ray) and config.launch.nnodes > 1:
        what, fix = "a Ray job has one machine", "launch.nnodes=1 (or cluster=slurm)"
        yield Problem(key="launch.nnodes", value=config.launch.nnodes, what=what, fix=fix, related=("cluster",))


RULES = (machines, gpus, package, one_machine)
