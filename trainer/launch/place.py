"""What the place where a command runs cannot do: a machine, a rank of torchrun or srun, a login node."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from ..errors import Problem
from ..schema import Config
from ..schema.cluster import Slurm


def check(config: Config) -> Iterator[Problem]:
    """What the config asks of this place in vain."""
    launch, cluster = config.launch, config.cluster
    if "RANK" in os.environ:
        yield from _check_rank(config)
    elif launch.nnodes > 1 and cluster is None:
        what, fix = "this command starts the ranks of one machine", "cluster=slurm, or torchrun on each machine"
        yield Problem(key="launch.nnodes", value=launch.nnodes, what=what, fix=fix)
    elif isinstance(cluster, Slurm) and shutil.which("sbatch") is None:
        yield Problem(key="cluster", value="slurm", what="there is no sbatch on PATH: not a Slurm cluster")


def _check_rank(config: Config) -> Iterator[Problem]:
    """Under torchrun or srun, which decide how many ranks there are."""
    launch = config.launch
    local_world, world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ["WORLD_SIZE"])
    nodes = world // local_world
    if launch.nproc_per_node not in (None, local_world):
        what, fix = f"{local_world} ranks were started here", "launch.nproc_per_node=null"
        yield Problem(key="launch.nproc_per_node", what=what, fix=fix)
    if launch.nnodes not in (1, nodes):
        yield Problem(key="launch.nnodes", what=f"{nodes} machines were started", fix="launch.nnodes=1")
    if launch.max_restarts > 0:
        what = "torchrun restarts its ranks itself: --max-restarts"
        yield Problem(key="launch.max_restarts", what=what, fix="launch.max_restarts=0")
    if config.cluster is not None:
        what = "torchrun or srun has started the ranks already"
        yield Problem(key="cluster", what=what, fix="cluster=local")
    if world > 1 and getattr(config.optim, "layerwise", False):
        what = f"updates before gradients are averaged over ranks, and {world} ranks were started"
        yield Problem(key="optim.layerwise", what=what, fix="one rank")
