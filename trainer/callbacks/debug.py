"""`run.debug`: checks every number of a model, or logs a TPU's metrics."""

from __future__ import annotations

import logging
from collections import deque
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..state import Control, State
from ..tree import tensors
from .callback import Callback

logger = logging.getLogger(__name__)

SHOWN = 21
"""The number of tensors that are shown, as in transformers' DebugUnderflowOverflow."""


class NumberOverflow(RuntimeError):
    """A module has or computed a nan or an infinity."""


class Overflow(Callback):
    """Watches the weights, inputs and outputs of every module of a model in training mode."""

    def __init__(self, model: nn.Module) -> None:
        self._lines: deque[str] = deque(maxlen=SHOWN)
        self._step, self._batch, self._whole = 0, 0, model
        for name, module in model.named_modules():
            module.register_forward_hook(_Watch(self, name or "the model"))

    def on_step_begin(self, state: State, control: Control) -> None:
        self._step, self._batch = state.step + 1, 0

    def check(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Check a module after its forward; raises NumberOverflow at the first number that is not finite."""
        if not self._whole.training:
            return
        bad = None
        parts: list[tuple[str, Tensor]] = [("weight " + key, p) for key, p in module.named_parameters(recurse=False)]
        parts += [("input", t) for t in tensors(inputs)] + [("output", t) for t in tensors(output)]
        for kind, tensor in parts:
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            sizes = tensor.detach().abs()
            self._lines.append(f"{name} ({type(module).__name__}) {kind}: {sizes.min():.2e} to {sizes.max():.2e}")
            if bad is None and not torch.isfinite(sizes).all():
                bad = kind
        if bad is not None:
            where = f"step {self._step}, micro-batch {self._batch + 1}, module {name} ({type(module).__name__}), {bad}"
            logger.error("absolute least and greatest numbers, up to %s:\n%s", where, "\n".join(self._lines))
            raise NumberOverflow(f"run.debug=underflow_overflow: {where}: nan or infinite numbers")
        self._batch += module is self._whole


class _Watch:
    def __init__(self, overflow: Overflow, name: str) -> None:
        self.overflow, self.name = overflow, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.overflow.check(self.name, module, inputs, output)


class TpuMetrics(Callback):
    """Logs torch_xla's counters and timings after each evaluation."""

    def __init__(self) -> None:
        self._metrics = import_module("torch_xla.debug.metrics")

    def on_evaluate(self, state: State, control: Control, metrics: dict[str, float]) -> None:
        logger.info("%s", self._metrics.metrics_report())


def watchers(words: str, model: nn.Module) -> dict[str, Callback]:
    """The callbacks that `run.debug` names."""
    makers = {"underflow_overflow": lambda: Overflow(model), "tpu_metrics_debug": TpuMetrics}
    return {f"run.debug.{word}": makers[word]() for word in words.split()}
