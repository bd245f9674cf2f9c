"""Regression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

from ..build.build import build
from ..schema import task as schema
from .task import Supervised, target_of

if TYPE_CHECKING:
    from torchmetrics import Metric


class Regression(Supervised):
    """Mean squared error of outputs and targets of one shape."""

    def __init__(self, node: schema.Regression) -> None:
        self.node = node

    def criterion(self, output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:  # (B, 1) and (B,) would broadcast to (B, B): a loss of something else
            raise ValueError(f"the shapes of output {tuple(output.shape)} and target {tuple(target.shape)} differ")
        return F.mse_loss(output, target)

    def num_items(self, batch: Any) -> int | None:
        target = target_of(batch, self.label_names)
        return target.numel() if isinstance(target, Tensor) else None

    def metrics(self) -> dict[str, Metric]:
        return {name: build(metric) for name, metric in self.node.metrics.items()}
