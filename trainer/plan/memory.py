"""What a config would take on any number of GPUs: batches, steps, memory per GPU, disk; on paper, with fake tensors.

Nothing is allocated and no process group is made: model, optimizer state and one forward pass exist as shapes only
(torch's FakeTensorMode), so a 70-billion-parameter model plans on a laptop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from ..build.build import build
from ..data.batches import BatchLayout
from ..data.collate import Collate
from ..data.fetch import Fetch
from ..data.train_data import TrainData
from ..memory import save_memory
from ..optim import make_optimizer
from ..parallel.fsdp import layers, mesh_sizes
from ..precision import autocast_dtype, autocast_forward
from ..schema import Config
from ..schema.deepspeed import effective
from ..schema.parallel import FSDP, DeepSpeed, OffloadDevice
from ..task import make_task
from ..task.task import Supervised

CPU = torch.device("cpu")
BUCKET = 2  # DeepSpeed's reduce bucket is filled while the one before is reduced


@dataclass(frozen=True, kw_only=True, slots=True)
class Shapes:
    """What the model and the optimizer are made of."""

    parameters: list[Tensor]
    """All of them, fake; the trainable ones require gradients."""
    buffers: int
    """Bytes."""
    optimizer: dict[int, int]
    """Bytes of optimizer state of each trainable parameter, by its place in `parameters`; without state that is sharded
    with nothing (a step count)."""
    activations: int | None
    """Bytes that one micro-batch's forward keeps for backward; None where it cannot be traced, with the reason."""
    reason: str = ""
    layers: int = 0
    """Bytes (fp32) of the largest unit that a sharding engine gathers at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one GPU, the fullest one, in a step."""

    parameters: int
    gradients: int
    optimizer: int
    buffers: int
    communication: int
    """Gathered layers, gradient buckets."""
    activations: int | None
    host: int = 0
    """In the host's memory (or on its disk), for this GPU."""

    @property
    def total(self) -> int:
        """On the GPU."""
        state = self.parameters + self.gradients + self.optimizer + self.buffers
        return state + self.communication + (self.activations or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batches:
    """The arithmetic of the run."""

    world_size: int
    data_world_size: int
    """Ranks that see different data: those of a context-parallel or tensor-parallel group see the same."""
    update_size: int
    """Samples per optimizer update over all ranks."""
    max_steps: int | None
    steps_per_epoch: int | None
    num_samples: int | None


def batches(config: Config, world_size: int, local_world_size: int, dataset: Any) -> Batches:
    """World size, effective batch and steps, as the run will count them."""
    train, node = config.train, config.parallel
    sizes = mesh_sizes(node, world_size, local_world_size) if isinstance(node, FSDP) else {"cp": 1, "tp": 1}
    world = world_size // (sizes["cp"] * sizes["tp"])
    layout = BatchLayout(train.per_device_train_batch_size, train.gradient_accumulation_steps, world, 0)
    data = TrainData(dataset, layout, config.data, collate=None, seed=config.run.seed, device=CPU)
    sized = data.steps_per_epoch is not None or train.max_steps > 0
    return Batches(
        world_size=world_size,
        data_world_size=layout.world_size,
        update_size=layout.update_size,
        max_steps=data.max_steps(train.max_steps, train.num_train_epochs) if sized else None,
        steps_per_epoch=data.steps_per_epoch,
        num_samples=data.num_samples,
    )


def shapes(config: Config, dataset: Any) -> Shapes:
    """Build model and optimizer of fake tensors, and trace one micro-batch."""
    size = config.train.per_device_train_batch_size
    task = make_task(
        config.task, label_names=config.data.label_names, label_smoothing=config.train.label_smoothing_factor
    )
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model: nn.Module = build(config.model)
        save_memory(model, config.memory, CPU)
        parameters: list[Tensor] = list(model.parameters())
        node = config.parallel if isinstance(config.parallel, FSDP) else FSDP()
        units = [sum(map(_bytes, unit.parameters())) for unit in layers(model, node)]
        rest = sum(map(_bytes, parameters)) - sum(units)
        optimizer = _optimizer_bytes(config, model, parameters)
        activations, reason = None, ""
        try:
            batch = _batch(config, dataset, size, task, model)
            fake = _map(batch, mode.from_tensor)
            if autocast_dtype(config.precision) is not None:
                autocast_forward(model, config.precision, CPU)
            activations = _activations(lambda: task.loss(model, fake), parameters)
        except Exception as error:  # a forward may look at values, and shapes have none
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Shapes(
        parameters=parameters,
        buffers=sum(map(_bytes, model.buffers())),
        optimizer=optimizer,
        activations=activations,
        reason=reason,
        layers=max([*units, rest]),
    )


def memory(config: Config, shapes: Shapes, world_size: int, local_world_size: int) -> Memory:
    """Bytes per GPU under ``config.parallel``. What is offloaded counts as the host's, per GPU, or
    is on disk."""
    node = config.parallel
    trainable = [i for i, p in enumerate(shapes.parameters) if p.requires_grad]
    whole = sum(map(_bytes, shapes.parameters))
    gradients = sum(_bytes(shapes.parameters[i]) for i in trainable)
    optimizer = sum(shapes.optimizer.values())
    half = 2 if autocast_dtype(config.precision) is not None else 4  # bytes of a gathered element
    if isinstance(node, FSDP):
        sizes = mesh_sizes(node, world_size, local_world_size)
        # tensor parallelism cuts the matrices of its plan; norms and biases, which it leaves whole, are small
        shards = sizes["dp_shard"] * sizes["cp"]
        share = [_rows(p, shards) / (sizes["tp"] if p.ndim > 1 else 1) for p in shapes.parameters]
        gathered = shapes.layers * 2 if node.reshard_after_forward else whole  # this layer, and the next on its way
        held = Memory(
            parameters=sum(math.ceil(_bytes(p) * s) for p, s in zip(shapes.parameters, share, strict=True)),
            gradients=sum(math.ceil(_bytes(shapes.parameters[i]) * share[i]) for i in trainable),
            optimizer=sum(math.ceil(b * share[i]) for i, b in shapes.optimizer.items()),
            buffers=shapes.buffers,
            communication=gathered * half // 4 // sizes["tp"],
            # one layer's gathered keys and values, and logits whose loss is the task's, come on top: they are whole
            activations=shapes.activations and math.ceil(shapes.activations / sizes["cp"]),
        )
        return _offloaded(held, "parameters", "gradients", "optimizer") if node.cpu_offload else held
    if isinstance(node, DeepSpeed):
        node = effective(node)
        stage, bucket = node.zero_stage, BUCKET * min(node.reduce_bucket_size * 4, gradients)
        masters = gradients  # ZeRO keeps fp32 copies of its own of what it updates
        held = Memory(
            parameters=math.ceil(whole / world_size) if stage == 3 else whole,
            gradients=math.ceil(gradients / world_size) if stage >= 2 else gradients,
            optimizer=math.ceil((optimizer + masters) / world_size) if stage else optimizer + masters,
            buffers=shapes.buffers,
            communication=bucket + (shapes.layers * 2 * half // 4 if stage == 3 else 0),
            activations=shapes.activations,
        )
        for part, device in (("optimizer", node.offload_optimizer), ("parameters", node.offload_param)):
            if device is not OffloadDevice.none:
                held = _offloaded(held, part, to_host=device is OffloadDevice.cpu)
        return held
    if getattr(config.optim, "layerwise", False):  # one at a time, used as soon as it is there
        gradients = max(_bytes(shapes.parameters[i]) for i in trainable)
    return Memory(
        parameters=whole,
        gradients=gradients,
        optimizer=optimizer,
        buffers=shapes.buffers,
        communication=gradients if world_size > 1 else 0,  # DDP's buckets hold the gradients once more
        activations=shapes.activations,
    )


def _offloaded(held: Memory, *parts: str, to_host: bool = True) -> Memory:
    """The same with some parts in the host's memory, or on disk."""
    host = held.host + sum(getattr(held, part) for part in parts if to_host)
    return replace(held, host=host, **dict.fromkeys(parts, 0))


def disk(shapes: Shapes) -> int:
    """Bytes of one checkpoint: fp32 weights, buffers, optimizer state."""
    return sum(map(_bytes, shapes.parameters)) + shapes.buffers + sum(shapes.optimizer.values())


def _rows(parameter: Tensor, world_size: int) -> float:
    """The largest rank's share of a tensor that is cut along its first axis, as torch.chunk cuts."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return math.ceil(rows / world_size) / rows if rows else 0.0


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _optimizer_bytes(config: Config, model: nn.Module, parameters: list[Tensor]) -> dict[int, int]:
    """Let the optimizer make its state by one step on fake gradients."""
    node = config.optim
    if getattr(node, "fused", None):  # the same state; the fused kernels know no fake tensors
        node = replace(node, fused=False, foreach=False)
    optimizer: Optimizer = make_optimizer(node, model)
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    sizes: dict[int, int] = {}
    for i, parameter in enumerate(parameters):
        parameter.grad = None
        values = optimizer.state.get(parameter, {}).values()
        sizes[i] = sum(_bytes(v) for v in values if isinstance(v, Tensor) and v.ndim)
    return sizes


def _batch(config: Config, dataset: Any, size: int, task: Any, model: nn.Module) -> Any:
    """The first samples, as a batch."""
    columns = task.columns(model) if isinstance(task, Supervised) and config.data.remove_unused_columns else None
    names = task.target_names if isinstance(task, Supervised) else ()
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        return Fetch(dataset, Collate(columns, names), config.run.seed)(0, list(range(min(size, len(dataset)))))


def _map(value: Any, function: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_map(v, function) for v in value)
    return value


def _activations(forward: Callable[[], Tensor], parameters: list[Tensor]) -> int:
    """Bytes of the distinct storages that autograd saves, parameters left out."""
    own = {p.untyped_storage()._cdata for p in parameters}
    saved: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = (tensor, storage.nbytes())  # kept alive: a freed storage's address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(size for _, size in saved.values())
