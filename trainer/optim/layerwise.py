"""Updates inside backward: each parameter as soon as its gradient is complete, so that only one gradient exists."""

from __future__ import annotations

import weakref
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import distributed
from ..errors import ConfigError, Problem

NORMS, HOOKS = "gradient_norms", "gradient_hooks"
"""Attributes of an optimizer that updates inside backward: the norms of the gradients that it has used, by parameter;
the hooks' handles."""


def update_in_backward(optimizer: Optimizer) -> None:
    """Step ``optimizer`` in autograd's hooks, for one parameter at a time (Lv et al. 2023, arXiv:2306.09782; Hugging
    Face's *_layerwise). State and numbers are those of a usual step, provided that an update reads no other parameter.

    Raises:
        ConfigError: there are several ranks, whose gradients are averaged only after the hooks.
    """
    if distributed.world_size() > 1:
        what = f"updates before gradients are averaged over ranks, of which {distributed.world_size()} were started"
        raise ConfigError([Problem(key="optim.layerwise", value=True, what=what, fix="one rank")])
    owner = weakref.ref(optimizer)  # a hook that held the optimizer would keep its own parameter alive
    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(_update, owner, index))
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    ]
    setattr(optimizer, NORMS, {})
    setattr(optimizer, HOOKS, hooks)


def leave_backward(optimizer: Optimizer) -> None:
    """Remove the hooks, if there are any: the parameters are free for another optimizer."""
    for hook in getattr(optimizer, HOOKS, ()):
        hook.remove()


def updates_in_backward(optimizer: Optimizer) -> bool:
    """Whether an optimizer has updated everything by the end of backward."""
    return hasattr(optimizer, NORMS)


def take_norm(optimizer: Optimizer, parameters: list[torch.nn.Parameter]) -> Tensor:
    """The global norm of the gradients since the last call: a scalar on their device, summed in ``parameters``' order
    instead of backward's, like a usual gradient norm."""
    norms: dict[Tensor, Tensor] = getattr(optimizer, NORMS)
    found = [norms[parameter] for parameter in parameters if parameter in norms]
    norms.clear()
    norm: Tensor = torch.linalg.vector_norm(torch.stack(found or [torch.zeros(())]))
    return norm


def _update(owner: weakref.ref[Optimizer], index: int, parameter: Tensor) -> None:
    """Step for one parameter of the group ``index``, with the group's current options."""
    optimizer = owner()
    assert optimizer is not None
    norms, groups = getattr(optimizer, NORMS), optimizer.param_groups
    assert parameter.grad is not None
    if parameter in norms:
        raise RuntimeError("optim.layerwise=true: a weight got two gradients in one step; fix: use_reentrant=false")
    norms[parameter] = torch.linalg.vector_norm(parameter.grad)
    optimizer.param_groups = [groups[index] | {"params": [parameter]}]
    try:
        optimizer.step()
    finally:
        optimizer.param_groups = groups
    parameter.grad = None
