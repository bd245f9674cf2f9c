"""Which parameters weight decay applies to: the Hugging Face Trainer's rule."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ..errors import ConfigError, Problem

Groups = list[dict[str, Any]]

# Trainer.get_decay_parameter_names in transformers 5.23, which matches every suffix of a name: the same as a search
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decayed_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: neither in an nn.LayerNorm nor named as a bias or norm."""
    in_norms = {
        f"{name}.{inner}"
        for name, module in model.named_modules(remove_duplicate=False)
        if name and isinstance(module, nn.LayerNorm)
        for inner, _ in module.named_parameters(remove_duplicate=False)
    }
    return {name for name, _ in model.named_parameters() if name not in in_norms and not _NO_DECAY.search(name.lower())}


def decay_groups(model: nn.Module, weight_decay: float) -> Groups:
    """The decayed trainable parameters, then the others, in the model's order; either may be empty."""
    decayed = decayed_names(model)
    groups: Groups = [{"params": [], "weight_decay": weight_decay}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name not in decayed]["params"].append(parameter)
    return groups


def projected_groups(model: nn.Module, groups: Groups, targets: str | list[str], options: dict[str, Any]) -> Groups:
    """``groups`` with the targeted linear layers' weights moved to groups of their own, last, that hold ``options``.

    ``targets`` are read as Hugging Face's optim_target_modules.

    Raises:
        ConfigError: they name no linear layer that is trained.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = {id(module.weight) for name, module in linear.items() if _is_targeted(name, targets)}
    if not chosen & {id(parameter) for group in groups for parameter in group["params"]}:
        what, key = "names no linear layer that is trained", "optim.optim_target_modules"
        raise ConfigError(
            [Problem(key=key, value=targets, what=what, allowed=f"all-linear, or of {', '.join(linear)}")]
        )
    rest = [group | {"params": [p for p in group["params"] if id(p) not in chosen]} for group in groups]
    moved = [group | {"params": [p for p in group["params"] if id(p) in chosen]} | options for group in groups]
    return rest + [group for group in moved if group["params"]]


def _is_targeted(name: str, targets: str | list[str]) -> bool:
    """The rule of transformers.trainer_utils.check_target_module_exists; transformers is an extra of ours."""
    if isinstance(targets, str):
        return targets.replace("_", "-") == "all-linear" or bool(re.fullmatch(targets, name))
    return any(part in name or re.fullmatch(part, name) for part in targets)
