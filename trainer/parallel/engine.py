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
    """No update was made (fp16's scaler found an overflow, or skip_nonfinite): the schedule must not step."""


@dataclass(slots=True)
class EngineState:
    """Everything that a run needs of its engine to resume to the bit."""

    shards: list[Shard]
    """This rank's pieces. A tensor that is whole on several ranks is in the shards of one of them, rank 0."""
    meta: dict[str, Any]
    """Serialisable as JSON, equal on all ranks: optimizer param groups (names and options), non-tensor optimizer state,
    scaler."""


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
        """Place, wrap and shard the model, in place.

        The returned model is the one to call, for training and evaluation alike: it computes under the precision's
        autocast and returns fp32. The returned optimizer is the one to build the scheduler on. ``make_optimizer`` is
        called when the parameters are those to update, with their module. ``max_grad_norm`` 0 does not clip.
        """

    @abstractmethod
    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around one micro-batch's forward and backward; ranks exchange gradients in a step's ``last`` one only."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Backpropagate (scaled under fp16). Gradients are averaged over the ranks; the caller weights the loss
        accordingly."""

    @abstractmethod
    def step(self, *, skip_nonfinite: bool = False) -> StepOutput:
        """Unscale the gradients, measure their norm, clip, update, zero them. With ``skip_nonfinite`` (one
        synchronisation with the device) a norm that is not finite skips the update, on all ranks alike."""

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
        """Undo what the constructor and setup did to the process (process groups, settings, files) and, unless it is
        sharded, to the caller's module. Also after a failed setup; a second call does nothing."""


def engine_class(node: Any) -> type[Engine]:
    """The class that ``node._target_`` names; Engine, whose answers are those of one copy per rank, where it names a
    function."""
    target = load(node["_target_"] if isinstance(node, dict) else node._target_)
    return target if isinstance(target, type) and issubclass(target, Engine) else Engine
