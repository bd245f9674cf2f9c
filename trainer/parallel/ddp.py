"""DistributedDataParallel: a whole copy of the model per rank, gradients averaged while backward runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from .. import distributed
from ..optim.layerwise import leave_backward
from ..precision import autocast_forward, make_scaler, set_tf32
from ..schema.parallel import DDP
from ..schema.precision import Precision
from .engine import Engine, EngineState, MakeOptimizer, StepOutput
from .state import load_state, model_weights, state
from .step import backward, step

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader

_NOTHING = nullcontext()


class DDPEngine(Engine):
    """A single rank trains a plain model, without a process group."""

    def __init__(self, node: DDP, *, precision: Precision, device: torch.device) -> None:
        self.device = device
        self._node = node
        self._precision = precision
        self._ddp: DistributedDataParallel | None = None
        self._scaler = make_scaler(precision, device)
        with ExitStack() as undo:
            undo.callback(set_tf32(precision, device))
            undo.callback(distributed.close)
            if distributed.world_size() > 1:
                distributed.init(node.ddp_backend, node.ddp_timeout, device)
            self._undo = undo.pop_all()

    def model_context(self) -> AbstractContextManager[Any]:
        # On the CPU: the same initial weights on every device.
        return _NOTHING

    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        self._model = model.to(self.device)
        self._undo.callback(autocast_forward(model, self._precision, self.device))
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._max_grad_norm = max_grad_norm
        if distributed.world_size() > 1:
            self._ddp = self._wrap(model)
            # torch removes them when the wrapper is garbage; the caller may hold it for longer than that
            self._undo.callback(self._ddp._remove_autograd_hooks)
        self._optimizer = make_optimizer(model)
        self._undo.callback(leave_backward, self._optimizer)
        return self._ddp or model, self._optimizer

    def _wrap(self, model: nn.Module) -> DistributedDataParallel:
        node = self._node
        ddp = DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=node.ddp_find_unused_parameters,
            bucket_cap_mb=node.ddp_bucket_cap_mb,
            static_graph=node.ddp_static_graph,
        )
        ddp.broadcast_buffers = node.ddp_broadcast_buffers  # as an argument it is deprecated since torch 2.13
        if not (node.ddp_find_unused_parameters or node.ddp_static_graph):
            _settle_buckets(ddp, self._parameters)
        return ddp

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        return _NOTHING if last or self._ddp is None else self._ddp.no_sync()

    def backward(self, loss: Tensor) -> None:
        backward(loss, self._scaler)

    def step(self, *, skip_nonfinite: bool = False) -> StepOutput:
        return step(self._parameters, self._optimizer, self._scaler, self._max_grad_norm, skip_nonfinite)

    def state(self) -> EngineState:
        return state(self._model, self._optimizer, self._scaler)

    def load_state(self, reader: ShardReader, meta: dict[str, Any], *, weights_only: bool = False) -> None:
        load_state(self._model, self._optimizer, self._scaler, reader, meta, weights_only=weights_only)

    def weights(self) -> dict[str, Tensor] | None:
        return model_weights(self._model)

    def close(self) -> None:
        self._undo.close()


class _ZeroLoss(nn.Module):
    """A loss of 0 that uses every parameter once, in registration order."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self._used = parameters

    def forward(self) -> Tensor:
        return torch.stack([(p.flatten()[:1] * 0).sum().float() for p in self._used]).sum()


def _settle_buckets(ddp: DistributedDataParallel, parameters: list[nn.Parameter]) -> None:
    """Let DDP rebuild its gradient buckets now, in an order that depends on the model alone.

    DDP does so once, in the order in which the first backward's gradients arrive. If that were the first batch's, a
    resumed run would take its first step with other buckets than the run that it continues, and from 3 ranks on the
    sums would be in another order.
    """
    model = ddp.module
    ddp.module, ddp.require_forward_param_sync = _ZeroLoss(parameters), False
    ddp().backward()
    ddp.module, ddp.require_forward_param_sync = model, True
    for parameter in parameters:
        parameter.grad = None
