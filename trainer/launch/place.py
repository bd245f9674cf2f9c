"""What the place where a command runs cannot do: a machine, a rank of torchrun or srun, a login node."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from ..config.machine import sees_gpu
from ..errors import Problem
from ..schema import Config
from ..schema.cluster import Slurm
from ..schema.parallel import Backend

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for each rank, and init_process_group's env:// reads."""


def check_environment() -> Iterator[Problem]:
    """Whether the variables of a started rank are complete and make sense."""
    given = {name: os.environ.get(name) for name in RANK_VARIABLES}
    if missing := [name for name, value in given.items() if not value]:
        what = f"a started rank needs {missing[0]} as well, which is not set"
        yield Problem(
            key="RANK", value=given["RANK"], origin="environment", what=what, fix="unset RANK, or use torchrun"
        )
        return
    numbers = ["RANK", "WORLD_SIZE", "MASTER_PORT", *(n for n in ("LOCAL_RANK", "LOCAL_WORLD_SIZE") if n in os.environ)]
    wrong = [name for name in numbers if not os.environ[name].isdecimal() or not os.environ[name].isascii()]
    for name in wrong:
        yield Problem(key=name, value=os.environ[name], origin="environment", what="is not a whole number")
    if not wrong and int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        what, world = "there is no such rank", int(os.environ["WORLD_SIZE"])
        yield Problem(
            key="RANK",
            value=given["RANK"],
            origin="environment",
            what=what,
            allowed=f"0 to {world - 1} (WORLD_SIZE={world})",
        )
    elif not wrong and not 0 < int(os.environ["MASTER_PORT"]) < 65536:
        port, what = os.environ["MASTER_PORT"], "is not a port"
        yield Problem(key="MASTER_PORT", value=port, origin="environment", what=what, allowed="1 to 65535")


def check(config: Config) -> Iterator[Problem]:
    """What the config asks of this place in vain."""
    launch, cluster = config.launch, config.cluster
    if cluster is None:
        yield from _check_devices(config)
        yield from _check_hub(config)
    if "RANK" in os.environ:
        yield from _check_rank(config)
    elif launch.nnodes > 1 and cluster is None:
        what, fix = "this command starts the ranks of one machine", "cluster=slurm, or torchrun on each machine"
        yield Problem(key="launch.nnodes", value=launch.nnodes, what=what, fix=fix)
    elif isinstance(cluster, Slurm) and shutil.which("sbatch") is None:
        yield Problem(key="cluster", value="slurm", what="there is no sbatch on PATH: not a Slurm cluster")


def _check_hub(config: Config) -> Iterator[Problem]:
    """An upload finds a token: the config's, the environment's or the one that `hf auth login` saved."""
    if config.hub.push_to_hub and not config.hub.hub_token:
        from huggingface_hub import get_token  # 0.1 s

        if get_token() is None:
            fix = "hf auth login, or set HF_TOKEN"
            yield Problem(
                key="hub.push_to_hub", value=True, what="needs a token of the Hub, and there is none", fix=fix
            )


WORKERS_PER_CORE = 8
"""More workers than this only wait for each other."""


def _check_devices(config: Config) -> Iterator[Problem]:
    """What needs a GPU, ranks or cores that are not here."""
    engine, launch, workers = config.parallel, config.launch, config.data.dataloader_num_workers
    gpu = sees_gpu(config)
    backend = getattr(engine, "ddp_backend", None)
    if backend == Backend.nccl and not gpu:
        what, fix = "needs a GPU, and there is none here", "parallel.ddp_backend=gloo"
        yield Problem(key="parallel.ddp_backend", value=str(backend), what=what, fix=fix)
    elif backend == Backend.mpi and shutil.which("mpirun") is None:
        what, fix = "there is no mpirun on PATH, and torch's packages come without MPI", "parallel.ddp_backend=null"
        yield Problem(key="parallel.ddp_backend", value=str(backend), what=what, fix=fix)
    if config.precision.tf32 and not gpu:
        what = "needs an NVIDIA GPU (Ampere or later), and there is none here"
        yield Problem(key="precision.tf32", value=True, what=what, fix="precision=fp32")
    size = getattr(engine, "tp_size", None) or 1
    if size > 1 and not gpu and launch.nproc_per_node is None and launch.nnodes == 1 and "RANK" not in os.environ:
        what, fix = "needs as many ranks, and without a GPU there is one", f"launch.nproc_per_node={size}"
        yield Problem(key="parallel.tp_size", value=size, what=what, fix=fix)
    cores = os.cpu_count() or 1
    if workers > WORKERS_PER_CORE * cores:
        what, allowed = f"is more than {cores} cores can feed", f"at most {WORKERS_PER_CORE} per core"
        fix = f"data.dataloader_num_workers={cores}"
        yield Problem(key="data.dataloader_num_workers", value=workers, what=what, allowed=allowed, fix=fix)


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
