"""GaLore with 8-bit moments. bitsandbytes and galore-torch are imported with this module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.optim import AdamW, GlobalOptimManager
from galore_torch.galore_projector import GaLoreProjector
from torch import Tensor


class GaLoreAdamW8bit(AdamW):  # type: ignore[misc]
    """galore_torch.GaLoreAdamW8bit's update on any device: bitsandbytes' AdamW on projected gradients.

    The package's class needs CUDA, and its call of today's bitsandbytes sets skip_zeros and max_unorm=100, with which
    biases that start at 0 stay there.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        min_8bit_size: int = 4096,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, optim_bits=8, min_8bit_size=min_8bit_size)
        # the process-wide manager keys its settings by place in param_groups, whatever the optimizer
        self.mng = object.__new__(GlobalOptimManager)
        self.mng.initialize()

    @torch.no_grad()
    def init_state(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        if "rank" not in group:
            super().init_state(group, p, gindex, pindex)
            return
        names = ("rank", "update_proj_gap", "scale", "proj_type")
        self.state[p] |= {"step": 0, "projector": GaLoreProjector(**{name: group[name] for name in names})}

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
        if "rank" not in group:
            super().update_step(group, p, gindex, pindex)
            return
        state, weights, gradient = self.state[p], p.data, p.grad
        p.grad = None  # torch accepts only a gradient of the data's shape
        projected = state["projector"].project(gradient, state["step"])
        p.data, p.grad = torch.zeros_like(projected), projected
        if "state1" not in state:
            super().init_state(group, p, gindex, pindex)
        super().update_step(group | {"weight_decay": 0.0}, p, gindex, pindex)
        update, p.grad = p.data, None
        p.data, p.grad = weights.add_(state["projector"].project_back(update)), gradient
        p.add_(p, alpha=-group["lr"] * group["weight_decay"])
