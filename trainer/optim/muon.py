"""Muon for the hidden matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from .groups import Groups, decay_groups

HEADS = ("head", "lm_head", "output")
"""Names of output layers."""

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Keller Jordan's quintic: so steep at 0 that five iterations bring all singular values near 1."""


class Muon(Optimizer):
    """Jordan 2024: momentum, orthogonalised by a Newton-Schulz iteration. Equal to torch.optim.Muon on hidden matrices,
    and to torch.optim.AdamW on what orthogonal updates do not suit: embeddings, the output head, biases, norms.

    torch.optim.Muon raises for a parameter that is not a matrix, so that a model would need two optimizers. Sharded
    matrices (FSDP2) are gathered one at a time, and every rank does the iteration. The matrices must be whole:
    DeepSpeed's ZeRO, which flattens parameters, is an error.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if adjust_lr_fn not in ("original", "match_rms_adamw"):
            raise ValueError(f"optim.adjust_lr_fn={adjust_lr_fn}: allowed: original, match_rms_adamw")
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "betas": list(betas),
            "eps": eps,
            "algorithm": "muon",
        }
        super().__init__(params, defaults)

    @staticmethod
    def groups_of(model: nn.Module, weight_decay: float) -> Groups:
        """Three groups: the hidden matrices, the other decayed parameters, the parameters without decay."""
        linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        heads = [module for name, module in linears if name.rpartition(".")[2] in HEADS]
        heads += [module for _, module in linears[-1:]]
        embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
        others = {id(module.weight) for module in (*heads, *embeddings)}
        decayed, spared = decay_groups(model, weight_decay)
        hidden = [p for p in decayed["params"] if p.ndim == 2 and id(p) not in others]
        chosen = set(map(id, hidden))
        rest = [p for p in decayed["params"] if id(p) not in chosen]
        return [
            {"params": hidden, "weight_decay": weight_decay, "algorithm": "muon"},
            {"params": rest, "weight_decay": weight_decay, "algorithm": "adamw"},
            {**spared, "algorithm": "adamw"},
        ]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["algorithm"] == "adamw":
                self._adamw(parameters, group)
            else:
                for parameter in parameters:
                    self._muon(parameter, group)
        return loss

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if gradient.ndim != 2:
            raise ValueError(
                f"Muon updates whole matrices, not a tensor of shape {tuple(gradient.shape)}; "
                "DeepSpeed's ZeRO flattens them; fix: parallel=ddp or parallel=fsdp"
            )
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = _on_whole(update, lambda matrix: orthogonalise(matrix, group["ns_steps"]))
        rows, columns = parameter.shape
        scale = (
            max(1, rows / columns) ** 0.5 if group["adjust_lr_fn"] == "original" else 0.2 * max(rows, columns) ** 0.5
        )
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)

    def _adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not (state := self.state[parameter]):
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Approximate U V^T for the matrix U S V^T, in bfloat16, whose rounding the iteration tolerates."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    if tall := x.size(0) > x.size(1):
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _on_whole(tensor: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function`` of the whole tensor; of a sharded one, this rank's part of the result."""
    if not isinstance(tensor, DTensor):
        return function(tensor)
    whole = function(tensor.full_tensor()).contiguous()
    replicated = DTensor.from_local(whole, tensor.device_mesh, [Replicate()] * tensor.device_mesh.ndim, run_check=False)
    return replicated.redistribute(placements=tensor.placements)
