"""memory.torch_empty_cache_steps: empties the GPU's cache at an interval."""

from __future__ import annotations

import torch

from ..state import Control, State
from .callback import Callback


class EmptyCache(Callback):
    """Empties the cache of torch's CUDA allocator every ``steps`` steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, state: State, control: Control) -> None:
        if state.step % self.steps == 0:
            torch.cuda.empty_cache()
