"""`parallel`: how one model is spread over the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


class WrapPolicy(Choice):
    TRANSFORMER_BASED_WRAP = "TRANSFORMER_BASED_WRAP"
    SIZE_BASED_WRAP = "SIZE_BASED_WRAP"
    NO_WRAP = "NO_WRAP"


@dataclass(kw_only=True, slots=True)
class FSDP(ProcessGroup):
    """torch FSDP2 (fully_shard): parameters, gradients and optimizer states sharded over the ranks."""

    _target_: str = "trainer.parallel.fsdp.FSDPEngine"
    reshard_after_forward: bool = True
    """Free the gathered parameters after forward (fsdp_config.reshard_after_forward)."""
    cpu_offload: bool = False
    """Keep parameters, gradients and optimizer states in host memory, and update there (fsdp_config.cpu_offload). Needs
    a GPU to be offloaded from."""
    auto_wrap_policy: WrapPolicy = WrapPolicy.TRANSFORMER_BASED_WRAP
    """What is sharded one by one: layers by their class, the smallest modules above min_num_params, or nothing but the
    whole model (fsdp_config.auto_wrap_policy)."""
    min_num_params: int = number(0, minimum=0)
    """SIZE_BASED_WRAP: a module of more parameters than this, without one inside of which that is true as well, is
    sharded by itself (fsdp_config.min_num_params; Accelerate also wraps the modules around it, which hold little)."""
    transformer_layer_cls_to_wrap: list[str] | None = None
    """Class names of the layers that are sharded one by one (fsdp_config.transformer_layer_cls_to_wrap). None: the
    model's `_no_split_modules`, else the items of its nn.ModuleLists."""
    cpu_ram_efficient_loading: bool = False
    """Build the model on rank 0 alone, on the meta device elsewhere, and send the weights out: one copy in host memory
    instead of one per rank, the same numbers (fsdp_config.cpu_ram_efficient_loading). Not for a model that reads its
    weights while it is built."""


@dataclass(kw_only=True, slots=True)
class Mesh(FSDP):
    """The ranks as a mesh of dp_replicate x dp_shard x cp x tp, tp innermost: copies of FSDP groups, of ranks that see
    the same batches and share their sequences (cp) and each layer's products (tp). Names as in Accelerate's
    parallelism_config."""

    _target_: str = "trainer.parallel.fsdp.FSDPEngine"
    dp_replicate_size: int | None = number(1, minimum=1)
    """Copies of the sharded model (HSDP). None: what dp_shard_size leaves, without that one copy per machine."""
    dp_shard_size: int | None = number(None, minimum=1)
    """Ranks over which each copy is sharded. None: those that the other sizes leave."""
    tp_size: int | None = number(1, minimum=1)
    """Ranks that share one layer's products. None: those of a machine."""
    cp_size: int = number(1, minimum=1)
    """Ranks that share one sequence in training: each has a contiguous part of its tokens (so cp_size divides its
    length), gathers the others' keys and values, and a share of the parameters, as by dp_shard_size. For models whose
    forward takes position_ids and whose tokens meet in torch's scaled_dot_product_attention alone, causal or full.
    Evaluation works on whole sequences, each rank of the group on the same."""
    tp_plan: dict[str, str] | None = None
    """Module name (`*` stands for one segment) -> colwise, rowwise, colwise_rep, rowwise_rep, embedding_rowwise,
    replicated_with_grad_allreduce. None: the model's own `tp_plan` (transformers models have one)."""


class OffloadDevice(Choice):
    none = "none"
    cpu = "cpu"
    nvme = "nvme"


@dataclass(kw_only=True, slots=True)
class DeepSpeed(ProcessGroup):
    """DeepSpeed ZeRO (Rajbhandari et al. 2020): stage 0 averages gradients, 1 shards optimizer states, 2 gradients too,
    3 parameters too."""

    _target_: str = "trainer.parallel.deepspeed.DeepSpeedEngine"
    zero_stage: int = number(2, minimum=0, maximum=3)
    """DeepSpeed's zero_optimization.stage."""
    reduce_bucket_size: int = number(500_000_000, minimum=1)
    """Elements reduced at a time (zero_optimization.reduce_bucket_size)."""
    overlap_comm: bool = False
    """Reduce gradients while backward runs (zero_optimization.overlap_comm)."""
    offload_optimizer: OffloadDevice = OffloadDevice.none
    """Where optimizer states and the update are: none is the device; nvme is a disk, with the update in host memory by
    sub groups of 1e8 elements, and takes stage 3 (zero_optimization.offload_optimizer.device)."""
    offload_param: OffloadDevice = OffloadDevice.none
    """Where stage 3 keeps parameters that are not in use (zero_optimization.offload_param.device). The model is built
    in host memory before."""
    nvme_path: str | None = None
    """Directory on a fast disk of each machine's own, for what is offloaded to nvme
    (zero_optimization.offload_*.nvme_path). Each rank works in a folder of its own in it, gone when the run ends; what
    killed runs left is removed by the next one."""
    config: Any = None
    """A DeepSpeed JSON: its path, in whose place its content stands once the config is composed, or a mapping of that
    form, {zero_optimization: {stage: 3}}. 'auto' is filled from this config, what says otherwise than this config is an
    error, and the rest (zero_optimization's tuning, comms_logger, flops_profiler ...) reaches DeepSpeed as it is. Its
    zero_optimization replaces the fields above (HF: deepspeed)."""
