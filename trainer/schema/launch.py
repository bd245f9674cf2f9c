"""`launch`: how many processes run the training, and what becomes of one that fails."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import number


@dataclass(kw_only=True, slots=True)
class Launch:
    """The ranks. Under torchrun and srun these fields stay at their defaults: those decide."""

    nnodes: int = number(1, minimum=1, maximum=100_000)
    """Machines (torchrun: --nnodes). More than one need a cluster (cluster=slurm), or torchrun on each."""
    nproc_per_node: int | None = number(None, minimum=1, maximum=1024)
    """Ranks on each machine (torchrun: --nproc-per-node). None: one per visible GPU, 1 without; on several machines of
    a Slurm job cluster.gpus_per_node, 1 without. Always 1 with parallel=single or optim.layerwise=true."""
    max_restarts: int = number(0, minimum=0)
    """How many times all ranks, on all machines, are started again after one has failed, from the newest checkpoint;
    after a requeue a Slurm job counts anew (torchrun: --max-restarts)."""
