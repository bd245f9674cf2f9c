"""Activation checkpointing, and how much memory each stage of a run uses."""

from __future__ import annotations

import functools
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from .schema.memory import Memory


def save_memory(model: nn.Module, node: Memory, device: torch.device) -> None:
    """Apply the section to the model in place, before the engine wraps it; parameters keep their names.

    Raises ValueError for a setting that the model does not have.
    """
    config: Any = getattr(model, "config", None)
    if hasattr(config, "use_cache"):
        config.use_cache = node.use_cache
    elif node.use_cache:
        raise ValueError(f"memory.use_cache=true: {type(model).__name__} has no config.use_cache")
    if node.activation_checkpointing:
        _checkpoint_layers(model, dict(node.activation_checkpointing_kwargs), device)


def _checkpoint_layers(model: nn.Module, options: dict[str, Any], device: torch.device) -> None:
    every, offload = options.pop("every_n_layers", 1), options.pop("offload", False)
    options.setdefault("use_reentrant", False)
    own: Any = getattr(model, "activation_checkpointing_enable", None)
    if own is not None:  # transformers
        own(options, every_n_layers=every, offload=offload)
        return
    layers = list(_listed(model))
    if not layers:
        raise ValueError(
            f"memory.activation_checkpointing=true: {type(model).__name__} has no nn.ModuleList whose items are layers"
        )
    for layer in layers[::every]:
        layer.forward = _recomputed(layer.forward, options, offload, pin=device.type == "cuda")


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    """The items of the outermost nn.ModuleLists."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield child
        else:
            yield from _listed(child)


def _recomputed(
    forward: Callable[..., Any], options: dict[str, Any], offload: bool, *, pin: bool
) -> Callable[..., Any]:
    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        call = functools.partial(forward, **kwargs) if kwargs else forward  # the reentrant form takes no keywords
        if not offload:
            return checkpoint(call, *args, **options)
        with save_on_cpu(pin_memory=pin):
            return checkpoint(call, *args, **options)

    return wrapped


@contextmanager
def measured(stage: str, device: torch.device, into: dict[str, Any], *, skip: bool) -> Iterator[None]:
    """On leaving, fill ``into`` with the stage's memory metrics, in bytes and under Hugging Face's keys."""
    if skip:
        yield
        return
    kinds: dict[str, Callable[[], tuple[int, int]]] = {"cpu": _process}
    if device.type == "cuda":
        kinds["gpu"] = lambda: (torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
    _reset_peak()
    before = {kind: read()[0] for kind, read in kinds.items()}
    try:
        yield
    finally:
        for kind, read in kinds.items():
            now, peak = read()
            into[f"{stage}_mem_{kind}_alloc_delta"] = now - before[kind]
            into[f"{stage}_mem_{kind}_peaked_delta"] = max(0, peak - max(now, before[kind]))


_STATUS = Path("/proc/self/status")


def _process() -> tuple[int, int]:
    """Resident bytes of this process, and their peak since _reset_peak (outside Linux: since the process started)."""
    if not _STATUS.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, where there is no current figure
        return peak, peak
    text = _STATUS.read_text()
    sizes = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", text))
    return int(sizes["VmRSS"]) * 1024, int(sizes["VmHWM"]) * 1024


def _reset_peak() -> None:
    with suppress(OSError):  # no Linux, or a container that forbids it
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident
