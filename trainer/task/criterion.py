"""A task made of a loss function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .task import Supervised


class Criterion(Supervised):
    """`task._target_=torch.nn.MSELoss`, or any other function of (output, target) that returns a mean loss."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        self.function = function

    def criterion(self, output: Any, target: Tensor) -> Tensor:
        return self.function(output, target)
