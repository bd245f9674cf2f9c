"""Which modules of a model are sharded one by one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..schema.parallel import FSDP, WrapPolicy


def layers(model: nn.Module, node: FSDP) -> list[nn.Module]:
    """The modules that ``node`` shards one by one, none inside another.

    Raises:
        ValueError: the model has no module of a class that transformer_layer_cls_to_wrap names.
    """
    if node.auto_wrap_policy is WrapPolicy.NO_WRAP:
        return []
    if node.auto_wrap_policy is WrapPolicy.SIZE_BASED_WRAP:
        return [m for m in _smallest(model, node.min_num_params) if m is not model]
    return transformer_layers(model, node.transformer_layer_cls_to_wrap)


def transformer_layers(model: nn.Module, class_names: list[str] | None = None) -> list[nn.Module]:
    """The outermost modules of these classes; None: of the model's `_no_split_modules` (transformers), else the items
    of its nn.ModuleLists."""
    present = {type(module).__name__ for module in model.modules()}
    if unknown := sorted(set(class_names or ()) - present):
        raise ValueError(
            f"parallel.transformer_layer_cls_to_wrap={unknown}: the model has no such modules, but {sorted(present)}"
        )
    if class_names is None:
        class_names = sorted(present & set(getattr(model, "_no_split_modules", None) or ())) or None
    return list(_outermost(model, class_names, listed=False))


def _smallest(module: nn.Module, above: int) -> Iterator[nn.Module]:
    """Modules of more than ``above`` parameters that contain no other such module."""
    inside = [found for child in module.children() for found in _smallest(child, above)]
    has_forward = not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if inside:
        yield from inside
    elif has_forward and sum(p.numel() for p in module.parameters()) > above:
        yield module


def _outermost(module: nn.Module, class_names: list[str] | None, *, listed: bool) -> Iterator[nn.Module]:
    container = isinstance(module, (nn.ModuleList, nn.ModuleDict))  # has no forward at which to gather
    chosen = listed and not container if class_names is None else type(module).__name__ in class_names
    if chosen:
        if any(True for _ in module.parameters()):
            yield module
        return
    for child in module.children():
        yield from _outermost(child, class_names, listed=isinstance(module, nn.ModuleList))


def shared_groups(model: nn.Module, layers: list[nn.Module]) -> list[list[nn.Module]]:
    """The layers, those that share a (tied) parameter in one group; those that share one with the rest of the model are
    left out, for the root to shard."""
    inside = {module: layer for layer in layers for module in layer.modules()}
    users: dict[nn.Parameter, set[nn.Module | None]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(parameter, set()).add(inside.get(module))
    groups: list[set[nn.Module | None]] = []
    for sharing in users.values():
        touching = [group for group in groups if group & sharing]
        groups = [group for group in groups if not group & sharing] + [sharing.union(*touching)]
    order = {layer: index for index, layer in enumerate(layers)}
    inner = [[layer for layer in group if layer is not None] for group in groups if None not in group]
    return sorted((sorted(group, key=order.__getitem__) for group in inner), key=lambda group: order[group[0]])
