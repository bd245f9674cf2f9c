"""What a run changes outside of its own objects, put back at its end: a second run gives a fresh process's bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_ATTRIBUTES = ("forward", "_compiled_call_impl", "gradient_checkpointing", "_gradient_checkpointing_func")
"""Of a module: recomputation wraps forward, torch.compile and transformers set the others."""
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
)
_ENVIRONMENT = ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC")
_MISSING = object()


@contextmanager
def restored_model(model: nn.Module) -> Iterator[None]:
    """On leaving, remove the hooks, wrapped forwards, recomputation and compiled calls that were added inside.

    Gradients are dropped. What an engine adds is its own to undo; weights, buffers and the device stay as they are.
    """
    modules = list(model.modules())
    attributes = [{name: vars(module).get(name, _MISSING) for name in _ATTRIBUTES} for module in modules]
    hooks = [{name: set(getattr(module, name)) for name in _HOOKS} for module in modules]
    config: Any = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    try:
        yield
    finally:
        for module, values in zip(modules, attributes, strict=True):
            for name, value in values.items():
                if value is not _MISSING:
                    setattr(module, name, value)
                elif name in vars(module):
                    delattr(module, name)
        for module, before in zip(modules, hooks, strict=True):
            for name, keys in before.items():
                now: dict[int, Any] = getattr(module, name)
                for key in now.keys() - keys:
                    del now[key]
        for parameter in model.parameters():
            parameter.grad = None
        if use_cache is not None:
            config.use_cache = use_cache


@contextmanager
def restored_settings() -> Iterator[None]:
    """On leaving, reset the process-wide settings of run.full_determinism."""
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
