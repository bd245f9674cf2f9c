"""The engine protocol: how one model is spread over many devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..build.build import load
from .footprint import Footprint, Shapes, replicated

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from ..checkpoint.shard import Shard, ShardReader
    from ..schema.precision import Precision

MakeOptimizer = Callable[["nn.Module"], "Optimizer"]


@dataclass(slots=True)
class StepOutput:
    """What one optimizer update reports."""

    grad_norm: Tensor
    """Global gradient norm before clipping: a scalar fp32 tensor on the engine's device, equal on all ranks."""
    skipped: bool = False
    """True when no update was made (fp16's scaler found an overflow, or skip_nonfinite): the schedule must not step."""


@dataclass(slots=True)
class EngineState:
    """Everything an engine must remember to go on to the bit."""

    shards: list[Shard]
    """This rank's pieces. Tensors that are whole on several ranks appear on one of them only (rank 0)."""
    meta: dict[str, Any]
    """JSON-able, equal on all ranks: optimizer param groups (names and options), non-tensor optimizer state, scaler."""


class Engine(ABC):
    """Spreads one model over many devices. The loop knows only these verbs; `plan` asks the two static methods."""

    device: torch.device
    """Where this rank's batches go."""
    ranks_per_batch: int = 1
    """Consecutive ranks that work on the same batches (context and tensor parallelism)."""
    tensor_parallel_size: int = 1
    """Consecutive ranks among those that hold the same tokens, and therefore must draw the same dropout."""

    @staticmethod
    def data_parallel_size(node: Any, world_size: int, local_world_size: int) -> int:
        """Ranks that work on different batches under a config's ``node``; all of them by default."""
        return world_size

    @staticmethod
    def footprint(
        node: Any, shapes: Shapes, *, precision: Precision, world_size: int, local_world_size: int
    ) -> Footprint:
        """What a GPU holds under a config's ``node``, without one; a whole copy per rank by default."""
        return replicated(shapes, world_size)

    @abstractmethod
    def model_context(self) -> AbstractContextManager[Any]:
        """Where the model is built: on the device, or partitioned at birth (zero.Init)."""

    @abstractmethod
    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        """Place, wrap and shard; the returned model is called for training and evaluation alike (precision included:
        it is called under the right autocast and returns fp32 outputs), the returned optimizer is the one the scheduler
        is built on. make_optimizer is called at the engine's own moment, with the module whose parameters it must hold.
        """

    @abstractmethod
    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around one micro-batch's forward and backward; gradient traffic happens in the last one of a step only."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Backpropagate (scaled under fp16). Gradients are averaged over ranks: the caller weighs the loss for that."""

    @abstractmethod
    def step(self, *, skip_nonfinite: bool = False) -> StepOutput:
        """Unscale, measure the norm, clip, update, zero the gradients. With ``skip_nonfinite`` (one synchronisation) a
        norm that is not finite makes no update: the gradients are zeroed and `skipped` is True, on all ranks alike."""

    @abstractmethod
    def state(self) -> EngineState:
        """This rank's shards (collective)."""

    @abstractmethod
    def load_state(self, reader: ShardReader, meta: dict[str, Any], *, weights_only: bool = False) -> None:
        """Fill model (and, unless weights_only, optimizer and scaler) from a verified checkpoint (collective)."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor] | None:
        """The whole model's state dict on the CPU, in the model's own dtype and names: on rank 0, None elsewhere
        (collective)."""

    @abstractmethod
    def close(self) -> None:
        """Release process groups and memory. Called once, also after a failure."""


def engine_class(node: Any) -> type[Engine]:
    """The class that ``node._target_`` names; Engine, whose answers are those of one copy per rank, where it names a
    function."""
    target = load(node["_target_"] if isinstance(node, dict) else node._target_)
    return target if isinstance(target, type) and issubclass(target, Engine) else Engine
