"""Which parameters are decayed: the Hugging Face Trainer's rule."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

Groups = list[dict[str, Any]]

# Trainer.get_decay_parameter_names in transformers 5.23; its search of each suffix of a name equals one of the whole
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
