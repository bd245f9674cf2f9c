"""galore-torch's optimizers, as the Trainer sets them up. The package is imported when one of them is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.optim import Optimizer


def adamw(
    params: Any,
    lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    correct_bias: bool = True,
) -> Optimizer:
    """galore_torch.GaLoreAdamW, without its warning that transformers' own AdamW is deprecated."""
    from galore_torch import GaLoreAdamW

    optimizer: Optimizer = GaLoreAdamW(
        params,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        correct_bias=correct_bias,
        no_deprecation_warning=True,
    )
    return optimizer


def adafactor(
    params: Any,
    lr: float = 1e-3,
    eps: Sequence[float] = (1e-30, 1e-3),
    clip_threshold: float = 1.0,
    decay_rate: float = -0.8,
    beta1: float | None = None,
    weight_decay: float = 0.0,
) -> Optimizer:
    """galore_torch.GaLoreAdafactor with an external learning rate."""
    from galore_torch import GaLoreAdafactor

    optimizer: Optimizer = GaLoreAdafactor(
        params,
        lr=lr,
        eps=eps,
        clip_threshold=clip_threshold,
        decay_rate=decay_rate,
        beta1=beta1,
        weight_decay=weight_decay,
        scale_parameter=False,
        relative_step=False,
    )
    return optimizer
