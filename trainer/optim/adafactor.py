"""Adafactor with an external learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer


class Adafactor(Optimizer):
    """Shazeer and Stern 2018: the second moment of a matrix is stored as a row and a column.

    Equal to transformers.optimization.Adafactor(relative_step=False), which the Trainer uses; with ``scale_parameter``
    its update is AdaLomo's (Lv et al. 2023). torch.optim.Adafactor applies a
    schedule of its own to the rate. Works on FSDP2's sharded parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        eps: Sequence[float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": list(eps),
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, self.state[parameter])
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        gradient = parameter.grad.to(torch.promote_types(parameter.dtype, torch.float32))  # type: ignore[union-attr]
        square = gradient**2 + group["eps"][0]
        factored = square.ndim >= 2
        moments = {"row": _mean(square, -1), "column": _mean(square, -2)} if factored else {"exp_avg_sq": square}
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update({name: torch.zeros_like(moment) for name, moment in moments.items()})
            if group["beta1"] is not None:
                state["exp_avg"] = torch.zeros_like(gradient)

        state["step"] += 1
        beta2 = 1.0 - state["step"].item() ** group["decay_rate"]
        for name, moment in moments.items():
            state[name].mul_(beta2).add_(moment, alpha=1.0 - beta2)
        if factored:
            row, column = state["row"], state["column"]
            update = (row / _mean(row, -1).unsqueeze(-1)).rsqrt().unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
        else:
            update = state["exp_avg_sq"].rsqrt()
        update = update * gradient
        rate = group["lr"]
        value = parameter.to(gradient.dtype)  # the parameter itself unless it is in 16 bits
        if group["scale_parameter"]:
            rate = rate * _rms(value).clamp(min=group["eps"][1])
        update = update.div_((_rms(update) / group["clip_threshold"]).clamp(min=1.0)).mul_(rate)
        if group["beta1"] is not None:
            update = state["exp_avg"].mul_(group["beta1"]).add_(update, alpha=1 - group["beta1"])

        if group["weight_decay"]:
            value.add_(value, alpha=-group["weight_decay"] * rate)
        value.sub_(update)
        if value is not parameter:
            parameter.copy_(value)


def _mean(tensor: Tensor, dim: int) -> Tensor:
    """Mean over a dimension; on a shard the sum is reduced over the mesh (a mean of uneven shards' means is wrong)."""
    total = tensor.sum(dim)
    if isinstance(total, DTensor):
        total = total.redistribute(placements=[Replicate() if p.is_partial() else p for p in total.placements])
    return total / tensor.shape[dim]


def _rms(tensor: Tensor) -> Tensor:
    norm = tensor.norm(2)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return norm / tensor.numel() ** 0.5  # type: ignore[no-any-return]
