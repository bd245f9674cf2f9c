"""One process, one device: the model as it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..optim.layerwise import leave_backward
from ..precision import autocast_forward, make_scaler, set_tf32
from ..schema.parallel import Single
from ..schema.precision import Precision
from .engine import Engine, EngineState, MakeOptimizer, StepOutput
from .state import load_state, model_weights, state
from .step import backward, step

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader

_NOTHING = nullcontext()


class SingleEngine(Engine):
    """Adds nothing to a hand-written loop."""

    def __init__(self, node: Single, *, precision: Precision, device: torch.device) -> None:
        self.device = device
        self._precision = precision
        self._undo = ExitStack()
        self._undo.callback(set_tf32(precision, device))
        self._scaler = make_scaler(precision, device)

    def model_context(self) -> AbstractContextManager[Any]:
        # On the CPU: the same initial weights on every device.
        return _NOTHING

    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        self._model = model.to(self.device)
        self._undo.callback(autocast_forward(model, self._precision, self.device))
        self._optimizer = make_optimizer(model)
        self._undo.callback(leave_backward, self._optimizer)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._max_grad_norm = max_grad_norm
        return model, self._optimizer

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        return _NOTHING

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
