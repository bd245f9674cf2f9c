"""Memory on paper: what a model is made of, and what one GPU holds of it under an engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """What the model and the optimizer are made of."""

    model: nn.Module
    """Of fake tensors; the trainable parameters require gradients."""
    optimizer: dict[int, int]
    """Bytes of optimizer state of each parameter, by its place in `parameters`, without what is not sharded (a step
    count)."""
    activations: int | None
    """Bytes that one micro-batch's forward saves for backward; None where it cannot be traced."""
    reason: str = ""
    """Why it cannot."""
    layerwise: bool = False
    """The optimizer updates inside backward: one gradient exists at a time."""

    @property
    def parameters(self) -> list[Tensor]:
        """All of them, a tied one once."""
        return list(self.model.parameters())

    @property
    def parameter_bytes(self) -> int:
        """All parameters."""
        return sum(map(num_bytes, self.parameters))

    @property
    def gradients(self) -> dict[int, int]:
        """Bytes of the gradient of each trainable parameter, by its place in `parameters`."""
        return {i: num_bytes(p) for i, p in enumerate(self.parameters) if p.requires_grad}

    @property
    def gradient_bytes(self) -> int:
        """All gradients."""
        return sum(self.gradients.values())

    @property
    def optimizer_bytes(self) -> int:
        """All optimizer state."""
        return sum(self.optimizer.values())

    @property
    def buffers(self) -> int:
        """Bytes of the model's buffers."""
        return sum(map(num_bytes, self.model.buffers()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Bytes on one GPU, the fullest one, in a step."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    communication: int
    """Gathered layers, gradient buckets."""
    activations: int | None
    host: int = 0
    """In the host's memory, for this GPU."""

    @property
    def total(self) -> int:
        """On the GPU."""
        state = self.parameters + self.gradients + self.optimizer + self.buffers
        return state + self.communication + (self.activations or 0)

    def offloaded(self, *parts: str, to_host: bool = True) -> Footprint:
        """The same with the named fields in the host's memory, or on a disk, which is not counted."""
        host = self.host + sum(getattr(self, part) for part in parts if to_host)
        return replace(self, host=host, **dict.fromkeys(parts, 0))


def replicated(shapes: Shapes, world_size: int) -> Footprint:
    """A whole copy per rank."""
    gradients = max(shapes.gradients.values()) if shapes.layerwise else shapes.gradient_bytes
    return Footprint(
        parameters=shapes.parameter_bytes,
        gradients=gradients,
        optimizer=shapes.optimizer_bytes,
        buffers=shapes.buffers,
        communication=gradients if world_size > 1 else 0,  # DDP's buckets hold the gradients once more
        activations=shapes.activations,
    )


def num_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


def largest_unit(model: nn.Module, layers: list[nn.Module]) -> int:
    """Bytes of the largest layer, or of what is outside the layers if that is more: what a sharding engine gathers at a
    time."""
    sizes = [sum(map(num_bytes, layer.parameters())) for layer in layers]
    return max(*sizes, sum(map(num_bytes, model.parameters())) - sum(sizes), 0)
