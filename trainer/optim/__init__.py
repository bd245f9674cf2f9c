"""Optimizers: the shared names of a config, translated to the chosen class's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object

from ..build.build import build
from ..errors import ConfigError, Problem, closest
from ..schema.fields import Choice
from ..schema.optim import Optim
from ..schema.optim_args import BETAS, parse
from ..schema.optim_packages import Projected
from .groups import decay_groups, projected_groups
from .layerwise import update_in_backward

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

__all__ = ["make_optimizer"]

TRANSLATIONS = {"learning_rate": "lr", "adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
"""Hugging Face's shared name: torch's argument."""

PROJECTION = ("rank", "update_proj_gap", "scale", "proj_type", "proj", "scale_type")
"""Options that GaLore and APOLLO read in the param group of the projected matrices."""


def make_optimizer(node: Any, model: nn.Module) -> Optimizer:
    """The optimizer of a node over the model's trainable parameters.

    Weight decay is set by parameter groups, which exempt biases and norms. A class may make its own groups in a static
    method ``groups_of(model, weight_decay)``.

    Raises:
        ConfigError: the class does not take an argument, or optim_target_modules names no trained linear layer.
        ValueError: the model has no trainable parameters.
    """
    name, keys = _arguments(node)
    target = get_object(name)
    first, *rest = signature(target).parameters.values()
    accepted = None if any(p.kind is Parameter.VAR_KEYWORD for p in rest) else {p.name: p.default for p in rest}
    wanted = keys.pop("optim_target_modules", None) if isinstance(node, Projected) else None
    layerwise = isinstance(node, Optim) and keys.pop("layerwise", False)
    projection = {key: keys.pop(key) for key in PROJECTION if wanted is not None and key in keys}
    arguments = own_names(name, keys, accepted)
    weight_decay = arguments.pop("weight_decay", (accepted or {}).get("weight_decay", 0.0))
    groups = getattr(target, "groups_of", decay_groups)(model, weight_decay)
    if wanted is not None:
        groups = projected_groups(model, groups, wanted, projection)
    if not any(group["params"] for group in groups):
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    optimizer: Optimizer = build({"_target_": name, **arguments}, **{first.name: groups})
    if name.startswith("bitsandbytes."):
        _embeddings_in_32_bits(optimizer, model)
    if layerwise:
        update_in_backward(optimizer)
    return optimizer


def _arguments(node: Any) -> tuple[str, dict[str, Any]]:
    """A node's target and arguments, under the config's names. None in a typed node leaves an argument to the class."""
    if isinstance(node, Mapping):
        return node["_target_"], {key: value for key, value in node.items() if key != "_target_"}
    keys = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("_target_", "optim_args")}
    keys = {key: str(v) if isinstance(v, Choice) else v for key, v in keys.items() if v is not None}
    given = parse(node.optim_args)
    # torch's own names in optim_args win over the shared names' values
    return node._target_, {k: v for k, v in keys.items() if not (_own_name(k) in given and k not in given)} | given


def _embeddings_in_32_bits(optimizer: Any, model: nn.Module) -> None:
    """Keep embeddings' moments in 32 bits, as Hugging Face's Trainer does."""
    for module in model.modules():
        if type(module).__name__ == "Embedding" and optimizer.args.optim_bits == 8:
            optimizer.mng.register_module_override(module, "weight", {"optim_bits": 32})


def _own_name(key: str) -> str:
    return TRANSLATIONS.get(key, key)


def own_names(target: str, keys: Mapping[str, Any], accepted: Mapping[str, Any] | None) -> dict[str, Any]:
    """``keys`` under the names of ``target``, whose arguments are ``accepted``; None if it takes any. The class's own
    names win over the shared ones, which the composer fills in for every class.

    Raises:
        ConfigError: with every key that the class does not take, a weight decay that it would ignore included.
    """
    arguments: dict[str, Any] = {}
    problems = []
    for key, value in sorted(keys.items(), key=lambda item: item[0] not in TRANSLATIONS):
        name = (
            key if accepted is not None and key in accepted else "betas" if key in BETAS else TRANSLATIONS.get(key, key)
        )
        if accepted is not None and name not in accepted and not (name == "weight_decay" and not value):
            problems.append(
                Problem(
                    key=f"optim.{key}",
                    value=value,
                    what=f"{target} takes no {name}",
                    allowed=", ".join(sorted(accepted)),
                    suggestion=closest(key, accepted),
                )
            )
        elif name == "betas" and key != "betas":
            index = int(key[-1]) - 1
            default = list((accepted or {}).get("betas") or (0.9, 0.999))
            arguments.setdefault("betas", default)[index] = value
        else:
            arguments[name] = value
    if problems:
        raise ConfigError(problems)
    return arguments
