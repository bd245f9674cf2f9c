"""One optimizer update in plain torch, for every engine that leaves gradients in ``parameter.grad``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from ..optim.layerwise import take_norm, updates_in_backward
from .engine import StepOutput


def backward(loss: Tensor, scaler: torch.amp.GradScaler | None) -> None:
    """Backpropagate, with fp16's loss scale."""
    (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]


def step(
    parameters: list[nn.Parameter],
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
    max_grad_norm: float,
    skip_nonfinite: bool,
) -> StepOutput:
    """Unscale the gradients, measure their norm, clip, update, zero; all ranks report the same."""
    if updates_in_backward(optimizer):  # without clipping, scaler or skipping: schema/checks/optim.py
        norm = take_norm(optimizer, parameters)
        return StepOutput(norm, skipped=skip_nonfinite and not math.isfinite(norm))
    skipped = scaler is not None and _unscale(scaler, optimizer)
    meshes = list(_by_mesh(parameters))
    norm = _total_norm(meshes)
    if skip_nonfinite and not skipped:
        skipped = not math.isfinite(norm)
    if not skipped:
        if max_grad_norm > 0:
            for group in meshes:
                clip_grads_with_norm_(group, max_grad_norm, norm)
        optimizer.step()
    if scaler is not None:
        scaler.update()
    for parameter in parameters:
        parameter.grad = None
    return StepOutput(norm, skipped)


def _by_mesh(parameters: list[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """The parameters that have a gradient, grouped by the mesh of the gradient: no operation may mix two meshes."""
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if isinstance(parameter.grad, DTensor) else None
            groups.setdefault(mesh, []).append(parameter)
    return groups.values()


def _total_norm(meshes: list[list[nn.Parameter]]) -> Tensor:
    norms = []
    for group in meshes:
        norm = get_total_norm([p.grad for p in group if p.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms or [torch.zeros(())]))


def _unscale(scaler: torch.amp.GradScaler, optimizer: Optimizer) -> bool:
    """Divide the gradients by the loss scale; True when one of them is not finite. DTensor agrees across its mesh."""
    scaler.unscale_(optimizer)
    found = cast("dict[torch.device, Tensor]", scaler._found_inf_per_device(optimizer))
    return any(bool(flag.item()) for flag in found.values())


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Buffers that training changes (BatchNorm's), which differ between ranks. Without DDP's broadcast, the engine
    sends rank 0's to all at each step."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    return [buffer for norm in norms for buffer in norm.buffers()]
