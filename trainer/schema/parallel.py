"""`parallel`: how one model is spread over the ranks."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Choice, number


class Backend(Choice):
    nccl = "nccl"
    gloo = "gloo"
    mpi = "mpi"
    xccl = "xccl"


@dataclass(kw_only=True, slots=True)
class Single:
    """One process, one device."""

    _target_: str = "trainer.parallel.single.SingleEngine"


@dataclass(kw_only=True, slots=True)
class ProcessGroup:
    """What every engine of several ranks takes."""

    _target_: str = "trainer.parallel.ddp.DDPEngine"
    ddp_backend: Backend | None = None
    """Backend of the process group; None: nccl on GPUs, gloo on CPUs (HF: ddp_backend)."""
    ddp_timeout: int = number(1800, minimum=1)
    """Seconds after which a collective that does not complete fails (HF: ddp_timeout)."""


@dataclass(kw_only=True, slots=True)
class DDP(ProcessGroup):
    """torch DistributedDataParallel: a whole copy per rank, gradients averaged. With one rank it is a plain model."""

    _target_: str = "trainer.parallel.ddp.DDPEngine"
    ddp_find_unused_parameters: bool = False
    """Tolerate parameters that a step does not use (HF: ddp_find_unused_parameters, there True for plain modules)."""
    ddp_bucket_cap_mb: int = number(25, minimum=1)
    """Size of a gradient bucket in MiB (HF: ddp_bucket_cap_mb)."""
    ddp_broadcast_buffers: bool = True
    """Broadcast buffers from rank 0 at each forward (HF: ddp_broadcast_buffers)."""
    ddp_static_graph: bool = False
    """The graph is the same at every step (HF: ddp_static_graph)."""


@dataclass(kw_only=True, slots=True)
class FSDP(ProcessGroup):
    """torch FSDP2 (fully_shard): parameters, gradients and optimizer states sharded over the ranks."""

    _target_: str = "trainer.parallel.fsdp.FSDPEngine"
    reshard_after_forward: bool = True
    """Free the gathered parameters after forward (fsdp_config.reshard_after_forward)."""
    transformer_layer_cls_to_wrap: list[str] | None = None
    """Class names of the layers that are sharded one by one (fsdp_config.transformer_layer_cls_to_wrap). None: the
    model's `_no_split_modules`, else the items of its nn.ModuleLists."""


@dataclass(kw_only=True, slots=True)
class DeepSpeed(ProcessGroup):
    """DeepSpeed ZeRO (Rajbhandari et al. 2020): stage 1 shards optimizer states, 2 gradients too, 3 parameters too."""

    _target_: str = "trainer.parallel.deepspeed.DeepSpeedEngine"
    zero_stage: int = number(2, minimum=0, maximum=3)
    """DeepSpeed's zero_optimization.stage."""
    reduce_bucket_size: int = number(500_000_000, minimum=1)
    """Elements reduced at a time (zero_optimization.reduce_bucket_size)."""
    overlap_comm: bool = False
    """Reduce gradients while backward runs (zero_optimization.overlap_comm)."""
