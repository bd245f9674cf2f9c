"""Next-token prediction."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..schema import task as schema
from ..schema.task import IGNORE_INDEX
from .task import Supervised, target_of


class LanguageModeling(Supervised):
    """Cross entropy of each token given those before it, in nats. The labels are the input; they are shifted here.

    A batch is a dict with `labels` (B, T). The model returns logits (B, T, V), or the loss itself (transformers).
    """

    def __init__(self, node: schema.LanguageModeling) -> None:
        pass

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        # shifting the labels instead of the logits saves a copy of (B, T, V) in forward and backward
        target = F.pad(target, (0, 1), value=IGNORE_INDEX)[..., 1:]
        total = F.cross_entropy(
            output.flatten(0, -2),
            target.flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total / num_predicted(target).clamp(min=1)

    def summarise(self, metrics: dict[str, float]) -> dict[str, float]:
        try:
            return {"perplexity": math.exp(metrics["loss"])}
        except OverflowError:
            return {"perplexity": math.inf}

    def num_items(self, batch: Any) -> Tensor | None:
        target = target_of(batch, self.label_names)
        return None if target is None else num_predicted(target[..., 1:])


def num_predicted(target: Tensor) -> Tensor:
    """How many of the labels are not IGNORE_INDEX, on their device, without a synchronisation."""
    return target.ne(IGNORE_INDEX).sum()
