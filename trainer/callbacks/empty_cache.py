"""memory.torch_empty_cache_steps: the GPU's cache is emptied every so many steps."""

from __future__ import annotations

import torch

from ..state import Control, State
from .callback import Callback


class EmptyCache(Callback):
    """memory.torch_empty_cache_steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, state: State, control: Control) -> None:
        if state.step % self.steps == 0:
            torch.cuda.empty_cache()
