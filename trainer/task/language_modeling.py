"""Language modeling: the loss of each predicted token."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from ..schema import task as schema
from ..schema.task import IGNORE_INDEX
from .task import Supervised


class LanguageModeling(Supervised):
    """Cross entropy of each token given those before it, in nats. The labels are the input; they are shifted here,
    unless the model is a transformers model whose own loss does not shift them (masked LM, encoder-decoder).

    A batch is a dict with `labels` (B, T). The model returns logits (B, T, V), or the loss itself (transformers).
    """

    shifts_labels = True

    def __init__(self, node: schema.LanguageModeling) -> None:
        pass

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        # shifting the labels instead of the logits saves a copy of (B, T, V) in forward and backward
        if self.shifts_labels:
            target = F.pad(target, (0, 1), value=IGNORE_INDEX)[..., 1:]
        total = F.cross_entropy(
            output.flatten(0, -2),
            target.flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total / target.ne(IGNORE_INDEX).sum().clamp(min=1)

    def summarise(self, metrics: dict[str, float]) -> dict[str, float]:
        try:
            return {"perplexity": math.exp(metrics["loss"])}
        except OverflowError:
            return {"perplexity": math.inf}
