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
"""What GaLore and APOLLO read in the param group of the projected matrices."""


def make_optimizer(node: Any, model: nn.Module) -> Optimizer:
    """The optimizer of a node over the model's trainable parameters.

    Weight decay goes through parameter groups: it spares biases and norms. A class may make its own groups, by a static
    method ``groups_of(model, weight_decay)``. In our typed nodes None leaves an argument to the class.
    """
    if isinstance(node, Mapping):
        name = node["_target_"]
        keys = {key: value for key, value in node.items() if key != "_target_"}
    else:
        name = node._target_
        keys = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in ("_target_", "optim_args")}
        keys = {key: value for key, value in keys.items() if value is not None}
        keys = {key: str(value) if isinstance(value, Choice) else value for key, value in keys.items()}
        given = parse(node.optim_args)
        # torch's own names in optim_args must win over the shared ones' values
        keys = {k: v for k, v in keys.items() if not (_own_name(k) in given and k not in given)} | given
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
        _keep_embeddings(optimizer, model)
    if layerwise:
        update_in_backward(optimizer)
    return optimizer


def _keep_embeddings(optimizer: Any, model: nn.Module) -> None:
    """Embeddings' moments stay in 32 bits, as in the Trainer."""
    for module in model.modules():
        if type(module).__name__ == "Embedding" and optimizer.args.optim_bits == 8:
            optimizer.mng.register_module_override(module, "weight", {"optim_bits": 32})


def _own_name(key: str) -> str:
    return TRANSLATIONS.get(key, key)


def own_names(target: str, keys: Mapping[str, Any], accepted: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys as ``target`` calls them; ``accepted`` are its arguments, None if it takes any. A key that it does not
    take is an error, and so is a weight decay that it would ignore. The class's own names win over the shared ones,
    which compose.py fills in whatever the class is."""
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
