"""A task made of a loss function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..schema.task import IGNORE_INDEX
from .task import Supervised, num_labels, target_of


class Criterion(Supervised):
    """`task._target_=torch.nn.MSELoss`, or any other function of (output, target) that returns a mean loss.

    What torch's own losses average over is known: micro-batches are weighted by the class weights of the labels that
    are not ignored, or by the elements of the target. With any other function they are weighted by their samples.
    """

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        self.function = function
        called, options = function, {}
        if isinstance(function, partial):
            called, options = function.func, function.keywords
        elif isinstance(function, nn.Module):
            options = vars(function) | dict(function.named_buffers())
        self._has_classes = called in (F.cross_entropy, F.nll_loss) or isinstance(
            called, nn.CrossEntropyLoss | nn.NLLLoss
        )
        self.counts_items = self._has_classes or type(called).__module__ == "torch.nn.modules.loss"
        """Whether num_items knows what the function averages over."""
        self.ignore_index = options.get("ignore_index", IGNORE_INDEX)
        self._class_weights: Tensor | None = options.get("weight") if self._has_classes else None

    def criterion(self, output: Any, target: Tensor) -> Tensor:
        return self.function(output, target)

    def num_items(self, batch: Any) -> int | Tensor | None:
        target = target_of(batch, self.label_names)
        if not self.counts_items or not isinstance(target, Tensor):
            return None
        if not self._has_classes or target.is_floating_point():
            return target.numel()
        if self._class_weights is None:
            return num_labels(target, self.ignore_index)
        counted = target.ne(self.ignore_index)
        weights = self._class_weights.to(target.device)
        return (weights[target.where(counted, 0)] * counted).sum()
