"""NEFTune (Jain et al. 2023): noise on the input embeddings while training."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def add_noise(model: nn.Module, alpha: float | None) -> None:
    """Add uniform noise in +-alpha / sqrt(length * width) to the input embeddings in training mode, by a forward hook.

    The embeddings are those of get_input_embeddings(), else the first nn.Embedding; ValueError if there is none.
    """
    if alpha is None:
        return
    find: Any = getattr(model, "get_input_embeddings", None)
    embeddings = (
        find()
        if find is not None
        else next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    )
    if not isinstance(embeddings, nn.Module):
        raise ValueError(f"train.neftune_noise_alpha={alpha}: {type(model).__name__} has no nn.Embedding")

    def noisy(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        size = alpha / math.sqrt(output.shape[-2] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-size, size)

    embeddings.register_forward_hook(noisy)
