"""FSDP2 (fully_shard): parameters, gradients and optimizer states sharded over the ranks along axis 0; on a mesh also
copies (HSDP), context-parallel and tensor-parallel groups."""

from __future__ import annotations

import functools
import logging
import math
import warnings
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, _redistribute, debug
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from .. import distributed
from ..precision import autocast_bytes, autocast_dtype, autocast_forward, make_scaler, set_tf32
from ..schema.parallel import FSDP, Mesh
from ..schema.precision import Precision
from .context import Context
from .engine import Engine, EngineState, MakeOptimizer, StepOutput
from .footprint import Footprint, Shapes, largest_unit, num_bytes
from .layers import layers, shared_groups
from .state import load_state, model_weights, own_part, rows_of, state
from .step import backward, running_statistics, step
from .tensor import parallelise, preserve_ties

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader

_NOTHING = nullcontext()
_CHATTY = ("torch.distributed.tensor._redistribute", "torch.distributed.tensor._collective_utils")
"""Loggers that warn about collectives that could not be merged into one."""


class FSDPEngine(Engine):
    """Shards layer by layer, and the rest with the root. Works on one rank as well."""

    def __init__(self, node: FSDP, *, precision: Precision, device: torch.device) -> None:
        self.device = device
        self._node = node
        self._precision = precision
        self._scaler = make_scaler(precision, device)
        self._offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if node.cpu_offload else OffloadPolicy()
        self._context: Context | None = None
        self._sharded: list[FSDPModule] = []
        self._synchronous = True
        sizes = mesh_sizes(node, distributed.world_size(), distributed.local_world_size())
        self.tensor_parallel_size, self.ranks_per_batch = sizes["tp"], sizes["cp"] * sizes["tp"]
        with ExitStack() as undo:
            undo.callback(set_tf32(precision, device))
            undo.callback(distributed.close)
            undo.callback(_forget_transfers)
            backend = "cpu:gloo,cuda:nccl" if node.cpu_offload and device.type == "cuda" else node.ddp_backend
            distributed.init(backend, node.ddp_timeout, device)
            self._sequence_group = _sequence_group(sizes["cp"], sizes["tp"], node.ddp_timeout)
            self._mesh = _device_mesh(sizes, device)
            self._undo = undo.pop_all()

    @staticmethod
    def data_parallel_size(node: FSDP, world_size: int, local_world_size: int) -> int:
        sizes = mesh_sizes(node, world_size, local_world_size)
        return sizes["dp_replicate"] * sizes["dp_shard"]

    @staticmethod
    def footprint(
        node: FSDP, shapes: Shapes, *, precision: Precision, world_size: int, local_world_size: int
    ) -> Footprint:
        sizes = mesh_sizes(node, world_size, local_world_size)
        # tensor parallelism cuts the matrices of its plan; norms and biases, which it leaves whole, are small
        shards = sizes["dp_shard"] * sizes["cp"]
        share = [_largest_share(p, shards) / (sizes["tp"] if p.ndim > 1 else 1) for p in shapes.parameters]
        if node.reshard_after_forward:  # this layer, and the next on its way
            gathered = 2 * largest_unit(shapes.model, layers(shapes.model, node))
        else:
            gathered = shapes.parameter_bytes
        held = Footprint(
            parameters=sum(math.ceil(num_bytes(p) * s) for p, s in zip(shapes.parameters, share, strict=True)),
            gradients=sum(math.ceil(b * share[i]) for i, b in shapes.gradients.items()),
            optimizer=sum(math.ceil(b * share[i]) for i, b in shapes.optimizer.items()),
            buffers=shapes.buffers,
            communication=gathered * autocast_bytes(precision) // 4 // sizes["tp"],
            # one layer's gathered keys and values, and logits whose loss is the task's, come on top: they are whole
            activations=shapes.activations and math.ceil(shapes.activations / sizes["cp"]),
        )
        return held.offloaded("parameters", "gradients", "optimizer") if node.cpu_offload else held

    def model_context(self) -> AbstractContextManager[Any]:
        # On the CPU: the same initial weights on every device.
        elsewhere = self._node.cpu_ram_efficient_loading and not distributed.is_main()
        return torch.device("meta") if elsewhere else _NOTHING

    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        rank_0_only = self._node.cpu_ram_efficient_loading
        if not rank_0_only:
            model.to(self.device)
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), 0)
        whole = [t.detach() for t in (*model.parameters(), *model.buffers())] if rank_0_only else []
        if rank_0_only:
            with preserve_ties(model):
                model.to("meta")
        self._undo.callback(autocast_forward(model, self._precision, self.device))
        names = self._mesh.mesh_dim_names or ()
        if "tp" in names:
            assert isinstance(self._node, Mesh)
            parallelise(model, self._mesh["tp"], self._node.tp_plan)
        self._shard(
            model, self._mesh["dp_replicate", "dp_shard"] if "dp_replicate" in names else self._mesh["dp_shard"]
        )
        if rank_0_only:
            self._scatter(model, whole)
        if self._sequence_group is not None:
            self._context = Context(model, self._sequence_group)
        self._model = model
        self._sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._optimizer = make_optimizer(model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._statistics = running_statistics(model)
        self._max_grad_norm = max_grad_norm
        return model, self._optimizer

    def _shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        dtype = autocast_dtype(self._precision)
        # autocast casts inputs: a float target must not be rounded before it.
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=dtype and torch.float32, cast_forward_inputs=False
        )
        reshard = self._node.reshard_after_forward
        shard = functools.partial(fully_shard, mesh=mesh, reshard_after_forward=reshard, offload_policy=self._offload)
        # Norms with running statistics do not accept 16-bit weights with fp32 statistics.
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        for norm in norms:
            shard(norm, mp_policy=MixedPrecisionPolicy())
        chosen = [m for m in layers(model, self._node) if m not in norms]
        for modules in (*shared_groups(model, chosen), [model]):
            shard(modules, mp_policy=policy)

    def _scatter(self, model: nn.Module, whole: list[Tensor]) -> None:
        """Send the initial values to all ranks: only rank 0 has made them."""
        with preserve_ties(model):
            model.to_empty(device="cpu" if self._node.cpu_offload else self.device)
        for module in model.modules():
            module._buffers = {name: b if b is None else b.to(self.device) for name, b in module._buffers.items()}
        for tensor, value in zip((*model.parameters(), *model.buffers()), whole, strict=True):
            value = torch.empty_like(value, device=self.device) if value.is_meta else value.to(self.device)
            dist.broadcast(value, 0)
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            start, rows = rows_of(tensor)
            with torch.no_grad():
                local.copy_(own_part(value.flatten()[start : start + rows.numel()].view(rows), tensor))

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        if last is not self._synchronous:
            self._synchronous = last
            for module in self._sharded:
                module.set_requires_gradient_sync(last, recurse=False)
        return _NOTHING if self._context is None else self._context.active()

    def backward(self, loss: Tensor) -> None:
        backward(loss, self._scaler)

    def step(self, *, skip_nonfinite: bool = False) -> StepOutput:
        for buffer in self._statistics:
            dist.broadcast(buffer, 0)
        return step(self._parameters, self._optimizer, self._scaler, self._max_grad_norm, skip_nonfinite)

    def state(self) -> EngineState:
        self._reshard()
        return state(self._model, self._optimizer, self._scaler)

    def load_state(self, reader: ShardReader, meta: dict[str, Any], *, weights_only: bool = False) -> None:
        self._reshard()
        load_state(self._model, self._optimizer, self._scaler, reader, meta, weights_only=weights_only)

    def weights(self) -> dict[str, Tensor] | None:
        self._reshard()
        return model_weights(self._model)

    def close(self) -> None:
        self._undo.close()

    def _reshard(self) -> None:
        # After an evaluation's forward, modules may still list their gathered parameters.
        for module in self._sharded:
            module.reshard()


def mesh_sizes(node: FSDP, world: int, local_world: int) -> dict[str, int]:
    """Sizes of the mesh's axes, outermost first.

    Raises:
        ValueError: their product is not ``world``.
    """
    if not isinstance(node, Mesh):
        return {"dp_replicate": 1, "dp_shard": world, "cp": 1, "tp": 1}
    tp = local_world if node.tp_size is None else node.tp_size
    inner = node.cp_size * tp
    replicate = node.dp_replicate_size
    if replicate is None:
        replicate = world // ((node.dp_shard_size or max(1, local_world // inner)) * inner)
    shard = node.dp_shard_size or world // (replicate * inner or 1)
    if replicate * shard * inner != world:
        raise ValueError(
            f"parallel: dp_replicate_size {replicate} x dp_shard_size {shard} x cp_size {node.cp_size} x tp_size {tp} "
            f"are not {world} ranks; fix: sizes whose product is the number of ranks"
        )
    return {"dp_replicate": replicate, "dp_shard": shard, "cp": node.cp_size, "tp": tp}


def _device_mesh(sizes: dict[str, int], device: torch.device) -> DeviceMesh:
    """The mesh of axes larger than 1, and dp_shard (collective)."""
    # each rank of a sequence uses all parameters: they are sharded over these ranks as over others
    axes = {"dp_replicate": sizes["dp_replicate"], "dp_shard": sizes["dp_shard"] * sizes["cp"], "tp": sizes["tp"]}
    used = {name: size for name, size in axes.items() if size > 1 or name == "dp_shard"}
    mesh = init_device_mesh(device.type, tuple(used.values()), mesh_dim_names=tuple(used))
    if sizes["tp"] > 1:
        mesh["dp_shard", "tp"]._flatten()  # a norm then takes one sum instead of one per axis
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        # a cut layer's output is a view; nothing modifies it in place
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    return mesh


def _forget_transfers() -> None:
    """Clear torch's caches of redistributions: they name process groups, and an equal mesh of a later engine has
    others."""
    _redistribute._gen_transform_infos.cache_clear()
    debug._clear_sharding_prop_cache()  # type: ignore[no-untyped-call]


def _sequence_group(cp: int, tp: int, timeout_s: float) -> dist.ProcessGroup | None:
    """The ranks that share this one's sequences, ``tp`` apart (collective); None if none do."""
    if cp == 1:
        return None
    ranks = torch.arange(distributed.world_size()).view(-1, cp, tp).transpose(1, 2).reshape(-1, cp)
    new_subgroups: Any = dist.new_subgroups_by_enumeration  # untyped
    group: dist.ProcessGroup = new_subgroups(ranks.tolist(), timeout=timedelta(seconds=timeout_s))[0]
    return group


def _largest_share(parameter: Tensor, ranks: int) -> float:
    """The largest rank's share of a tensor that is cut along its first axis, as torch.chunk cuts."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return math.ceil(rows / ranks) / rows if rows else 0.0
