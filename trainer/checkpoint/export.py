"""`model/`: whole weights as safetensors, loadable without this project."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from . import files
from .shard import ShardReader


def export_weights(model: nn.Module, weights: dict[str, Tensor], directory: Path, *, safetensors: bool = True) -> None:
    """Write ``weights``, a whole state dict on the CPU, to ``directory`` as `model.safetensors`, or without
    ``safetensors`` as `pytorch_model.bin`. The directory is replaced in one rename.

    Tensors that share memory (tied weights) are written once, under the first name. A transformers model's config is
    written too, so that from_pretrained opens the directory.
    """
    temporary = directory.with_name(".tmp-model")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    unique: dict[int, str] = {}
    for name, tensor in weights.items():
        unique.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), name)
    if safetensors:
        tensors = {name: weights[name].contiguous() for name in unique.values()}
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, temporary / "pytorch_model.bin")
    config: Any = getattr(getattr(model, "module", model), "config", None)
    if hasattr(config, "save_pretrained"):
        config.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(temporary, directory)
    files.sync_directory(directory.parent)


def saved_weights(model: nn.Module, checkpoint: Path) -> dict[str, Tensor]:
    """``model``'s whole state dict as a checkpoint's directory holds it, on the CPU, whatever ranks wrote it.

    Tied entries stay one tensor.
    """
    reader = ShardReader(checkpoint)
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    whole: dict[int, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in whole:
            whole[id(value)] = reader.read_whole(f"model/{names[id(value)]}").to(value.dtype)
        weights[name] = whole[id(value)]
    return weights


def load_weights(model: nn.Module, directory: Path) -> None:
    """Fill ``model`` with what export_weights wrote to ``directory``.

    Raises:
        FileNotFoundError: there are no weights in the directory.
        RuntimeError: the weights are of another model; names what is missing or of another shape.
    """
    if (directory / "model.safetensors").exists():
        load_model(model, directory / "model.safetensors")  # knows that tied weights are stored once
    else:
        model.load_state_dict(torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True))
