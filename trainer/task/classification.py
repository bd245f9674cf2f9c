"""Classification: one class of several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from ..build.build import build
from ..schema import task as schema
from .task import Supervised

if TYPE_CHECKING:
    from torchmetrics import Metric


class Classification(Supervised):
    """Cross entropy of logits (B, C, ...) and class indices (B, ...)."""

    def __init__(self, node: schema.Classification) -> None:
        self.node = node

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def metrics(self) -> dict[str, Metric]:
        return {name: build(metric) for name, metric in self.node.metrics.items()}
