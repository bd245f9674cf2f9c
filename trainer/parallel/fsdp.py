"""FSDP2 (fully_shard): parameters, gradients and optimizer states sharded over the ranks, along axis 0."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from .. import distributed
from ..precision import autocast_dtype, autocast_forward, make_scaler, set_tf32
from ..schema.parallel import FSDP
from ..schema.precision import Precision
from .engine import Engine, EngineState, MakeOptimizer, StepOutput
from .torch_state import load_state, model_weights, state
from .torch_step import backward, running_statistics, step

if TYPE_CHECKING:
    from ..shards import ShardReader

_NOTHING = nullcontext()


class FSDPEngine(Engine):
    """Shards each layer by itself, then what is left with the root. One rank works too."""

    def __init__(self, node: FSDP, *, precision: Precision, device: torch.device) -> None:
        self.device = device
        self._node = node
        self._precision = precision
        set_tf32(precision, device)
        self._scaler = make_scaler(precision, device)
        distributed.init(node.ddp_backend, node.ddp_timeout, device)

    def model_context(self) -> AbstractContextManager[Any]:
        # On the CPU: the same initial weights on every device.
        return _NOTHING

    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        model.to(self.device)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        autocast_forward(model, self._precision, self.device)
        dtype = autocast_dtype(self._precision)
        # Inputs are autocast's business: a float target must not be rounded on its way in.
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=dtype and torch.float32, cast_forward_inputs=False
        )
        mesh = init_device_mesh(self.device.type, (distributed.world_size(),))
        shard = functools.partial(fully_shard, mesh=mesh, reshard_after_forward=self._node.reshard_after_forward)
        # Norms with running statistics take no 16-bit weights beside fp32 statistics.
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        for norm in norms:
            shard(norm, mp_policy=MixedPrecisionPolicy())
        chosen = [m for m in layers(model, self._node.transformer_layer_cls_to_wrap) if m not in norms]
        for modules in (*shared_groups(model, chosen), [model]):
            shard(modules, mp_policy=policy)
        self._model = model
        self._sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self._synchronous = True
        self._optimizer = make_optimizer(model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._statistics = running_statistics(model)
        self._max_grad_norm = max_grad_norm
        return model, self._optimizer

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        if last is not self._synchronous:
            self._synchronous = last
            for module in self._sharded:
                module.set_requires_gradient_sync(last, recurse=False)
        return _NOTHING

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
        distributed.close()

    def _reshard(self) -> None:
        # An evaluation's forward may leave gathered parameters behind; the model then lists those.
        for module in self._sharded:
            module.reshard()


def layers(model: nn.Module, class_names: list[str] | None) -> list[nn.Module]:
    """The outermost modules that are sharded one by one: of these classes, else as the model says, else the items of
    its nn.ModuleLists. Raises ValueError for a class that the model does not have."""
    present = {type(module).__name__ for module in model.modules()}
    if unknown := sorted(set(class_names or ()) - present):
        raise ValueError(
            f"parallel.transformer_layer_cls_to_wrap={unknown}: the model has no such modules, but {sorted(present)}"
        )
    if class_names is None:
        class_names = sorted(present & set(getattr(model, "_no_split_modules", None) or ())) or None
    return list(_outermost(model, class_names, listed=False))


def _outermost(module: nn.Module, class_names: list[str] | None, *, listed: bool) -> Iterator[nn.Module]:
    container = isinstance(module, (nn.ModuleList, nn.ModuleDict))  # has no forward at which to gather
    chosen = listed and not container if class_names is None else type(module).__name__ in class_names
    if chosen:
        if any(True for _ in module.parameters()):
            yield module
        return
    for child in module.children():
        yield from _outermost(child, class_names, listed=isinstance(module, nn.ModuleList))


def shared_groups(model: nn.Module, layers: list[nn.Module]) -> list[list[nn.Module]]:
    """Layers that share a (tied) parameter in one group; those that share one with the rest of the model are left to
    the root."""
    inside = {module: layer for layer in layers for module in layer.modules()}
    users: dict[nn.Parameter, set[nn.Module | None]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(parameter, set()).add(inside.get(module))
    groups: list[set[nn.Module | None]] = []
    for together in users.values():
        touching = [group for group in groups if group & together]
        groups = [group for group in groups if not group & together] + [together.union(*touching)]
    order = {layer: index for index, layer in enumerate(layers)}
    kept = [sorted((m for m in group if m is not None), key=order.__getitem__) for group in groups if None not in group]
    return sorted(kept, key=lambda group: order[group[0]])
