"""What a config holds in memory on any number of GPUs: on paper, with fake tensors.

Nothing is allocated and no process group is made: model, optimizer state and one forward pass exist as shapes only
(torch's FakeTensorMode), so a 70-billion-parameter model plans on a laptop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from ..build.build import build
from ..data.collate import Collate
from ..data.fetch import Fetch
from ..memory import save_memory
from ..optim import make_optimizer
from ..parallel.engine import engine_class
from ..parallel.footprint import Footprint, Shapes, num_bytes
from ..precision import autocast_forward
from ..schema import Config
from ..task import make_task
from ..task.task import Supervised
from ..tree import map_tensors

CPU = torch.device("cpu")


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
        optimizer = _optimizer_bytes(config, model, parameters)
        activations, reason = None, ""
        try:
            batch = map_tensors(mode.from_tensor, _batch(config, dataset, size, task, model))
            autocast_forward(model, config.precision, CPU)
            activations = _activations(lambda: task.loss(model, batch), parameters)
        except Exception as error:  # a forward may look at values, and shapes have none
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Shapes(
        model=model,
        optimizer=optimizer,
        activations=activations,
        reason=reason,
        layerwise=bool(getattr(config.optim, "layerwise", False)),
    )


def footprint(config: Config, shapes: Shapes, world_size: int, local_world_size: int) -> Footprint:
    """Bytes per GPU under ``config.parallel``, as its engine answers."""
    return engine_class(config.parallel).footprint(
        config.parallel,
        shapes,
        precision=config.precision,
        world_size=world_size,
        local_world_size=local_world_size,
    )


def _optimizer_bytes(config: Config, model: nn.Module, parameters: list[Tensor]) -> dict[int, int]:
    """Let the optimizer make its state by one step on fake gradients."""
    node = config.optim
    if getattr(node, "fused", None):  # the same state; fused kernels do not take fake tensors
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
        sizes[i] = sum(num_bytes(v) for v in values if isinstance(v, Tensor) and v.ndim)
    return sizes


def _batch(config: Config, dataset: Any, size: int, task: Any, model: nn.Module) -> Any:
    """The first samples, as a batch."""
    columns = task.columns(model) if isinstance(task, Supervised) and config.data.remove_unused_columns else None
    names = task.target_names if isinstance(task, Supervised) else ()
    with _disable_current_modes():
        return Fetch(dataset, Collate(columns, names), config.run.seed)(0, list(range(min(size, len(dataset)))))


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
