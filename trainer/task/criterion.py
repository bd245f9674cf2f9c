"""A task around a bare loss of (output, target)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .task import Supervised


class Criterion(Supervised):
    """`task._target_=torch.nn.MSELoss`, or any function of (output, target) that returns a mean."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        self.function = function

    def criterion(self, output: Any, target: Tensor) -> Tensor:
        return self.function(output, target)
