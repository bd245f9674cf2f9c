"""GrokAdamW, with its state in `optimizer.state`, where checkpoints look for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer


class GrokAdamW(Optimizer):
    """Equal to grokadamw.GrokAdamW 0.1.2 without grokking signals: AdamW on gradients to which their slow average is
    added, with a first beta that falls from parameter to parameter of a group. The package keeps its moments on the CPU
    inside the param groups, as a dictionary of parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        alpha_init: float = 0.98,
        lamb: float = 2.0,
        gamma: float = 0.1,
        gradient_clipping: float = 1.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": list(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "alpha_init": alpha_init,
            "lamb": lamb,
            "gamma": gamma,
            "gradient_clipping": gradient_clipping,
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
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            for index, parameter in enumerate(trained):
                self._update(parameter, index, group, self.state[parameter])
        return loss

    def _update(self, parameter: Tensor, index: int, group: dict[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq", "grok_ema"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        if group["gradient_clipping"] > 0:
            clip_grad_norm_(parameter, group["gradient_clipping"])
        gradient, (beta1, beta2), alpha = parameter.grad, group["betas"], group["alpha_init"]
        assert gradient is not None
        slow, average, square = state["grok_ema"], state["exp_avg"], state["exp_avg_sq"]
        slow.mul_(alpha).add_(gradient, alpha=1 - alpha)
        gradient = gradient + group["lamb"] * slow
        layer_beta1 = beta1 * (1 - group["gamma"]) ** index
        average.mul_(layer_beta1).add_(gradient, alpha=1 - layer_beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(average, square.sqrt().add_(group["eps"]), value=-rate)
