"""A torch module's and optimizer's state as named shards, and back: whole tensors and DTensors of any mesh.

torch.distributed.checkpoint.state_dict.get_optimizer_state_dict gives the same names, but makes missing state by a step
that counts (Adam's `step` would be saved as 1 before the first update), and reads state_dict(), in which bitsandbytes
wraps its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed import tensor as dtensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer

from .. import distributed
from ..checkpoint.shard import Shard
from . import nested
from .engine import EngineState

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader


def state(model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler | None) -> EngineState:
    """This rank's pieces of model, optimizer and scaler (collective for DTensors that are not sharded along axis 0)."""
    shards = list(_shards({f"model/{name}": tensor for name, tensor in model_tensors(model).items()}))
    values: dict[str, dict[str, Any]] = {}
    for parameter, name in zip(_parameters(optimizer), parameter_names(model, optimizer), strict=True):
        # not through state_dict(): bitsandbytes wraps its state there
        entries = dict(leaf for item in optimizer.state.get(parameter, {}).items() for leaf in nested.leaves(*item))
        shards += _shards({f"optim/{key}/{name}": v for key, v in entries.items() if isinstance(v, Tensor)})
        if plain := {key: v for key, v in entries.items() if not isinstance(v, Tensor)}:
            values[name] = plain
    return EngineState(shards, meta(group_options(model, optimizer), values, scaler))


def load_state(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
    reader: ShardReader,
    meta: dict[str, Any],
    *,
    weights_only: bool,
) -> None:
    """Fill model and, unless weights_only, optimizer and scaler (collective for DTensors)."""
    tensors = model_tensors(model)
    check_names({name: tuple(tensor.shape) for name, tensor in tensors.items()}, reader)
    if not weights_only:
        _load_optimizer(model, optimizer, reader, meta)
        if scaler is not None and meta["scaler"]:  # None after another precision: the fresh scaler stays
            scaler.load_state_dict(meta["scaler"])
    for name, tensor in tensors.items():
        fill(tensor, f"model/{name}", reader)


def _load_optimizer(model: nn.Module, optimizer: Optimizer, reader: ShardReader, meta: dict[str, Any]) -> None:
    saved = load_groups(group_options(model, optimizer), meta)
    groups = [live | options for live, options in zip(optimizer.state_dict()["param_groups"], saved, strict=True)]
    keys = state_keys(reader)
    names = parameter_names(model, optimizer)
    parameters = _parameters(optimizer)
    lacking = any(
        _lacks_template(optimizer.state.get(parameter, {}), keys.get(name, ()))
        for name, parameter in zip(names, parameters, strict=True)
    )
    if lacking or (not optimizer.state and _has_factors(parameters, names, keys, reader)):
        _materialise(optimizer, parameters)
    entries: dict[int, dict[str, Any]] = {}
    for index, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
        current = optimizer.state.get(parameter, {})
        flat = dict(meta["optim_values"].get(name, {}))
        flat |= {k: _read_like(parameter, current.get(k), f"optim/{k}/{name}", reader) for k in keys.get(name, ())}
        if flat:
            entries[index] = nested.rebuild(current, flat)
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    for index, entry in entries.items():
        live = optimizer.state[parameters[index]]
        for key, value in entry.items():
            # torch casts every state to its parameter's type: fp32 moments of bf16 weights, quantised codes
            if isinstance(value, Tensor) and live[key].dtype != value.dtype:
                live[key] = value.to(live[key].device)


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _lacks_template(entries: dict[str, Any], saved: Iterable[str]) -> bool:
    """Whether state that was saved in parts does not exist yet: only the optimizer can make it."""
    return any(nested.is_nested(key) and key.split(".")[0] not in entries for key in saved)


def model_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """The whole state dict, on the CPU of rank 0; None elsewhere. Tied entries stay one tensor (collective for
    DTensors)."""
    whole: dict[int, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in whole:
            tensor = value.detach()
            tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            whole[id(value)] = tensor.cpu().clone() if distributed.is_main() else tensor
        weights[name] = whole[id(value)]
    return weights if distributed.is_main() else None


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters (a tied one under its first name) and the buffers that a state dict holds."""
    saved = model.state_dict(keep_vars=True).keys()
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    return tensors | {name: buffer for name, buffer in model.named_buffers() if name in saved}


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimizer's parameters, in its state dict's order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def group_options(model: nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    """The optimizer's param groups, JSON-able, with names for parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        {key: _packed(v) for key, v in group.items() if key != "params"}
        | {"params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]


def _packed(value: Any) -> Any:
    """A group's option, JSON-able: some classes keep a counter or the learning rate as a tensor."""
    return {"tensor": value.item(), "dtype": str(value.dtype)} if isinstance(value, Tensor) else value


def _unpacked(value: Any, current: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"tensor", "dtype"}:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"].removeprefix("torch.")))
    return tuple(value) if isinstance(current, tuple) else value  # JSON has no tuples; torch's betas are one


def meta(
    groups: list[dict[str, Any]], values: dict[str, dict[str, Any]], scaler: torch.amp.GradScaler | None
) -> dict[str, Any]:
    """What every engine saves beside its shards, in the one form that all engines read."""
    scale = None if scaler is None else scaler.state_dict()
    return {"param_groups": groups, "optim_values": values, "scaler": scale}


def load_groups(current: list[dict[str, Any]], meta: dict[str, Any]) -> list[dict[str, Any]]:
    """The saved param groups' options (without their parameters), for groups whose group_options are ``current``.

    Raises:
        ValueError: the optimizer's groups hold other parameters than the checkpoint's.
    """
    saved = meta["param_groups"]
    if [group["params"] for group in current] != [group["params"] for group in saved]:
        raise ValueError(
            f"the checkpoint's optimizer has groups of {[len(g['params']) for g in saved]} parameters, this one has "
            f"{[len(g['params']) for g in current]}, or they differ in name or order"
        )
    return [
        {key: _unpacked(value, own.get(key)) for key, value in group.items() if key != "params"}
        for own, group in zip(current, saved, strict=True)
    ]


def check_names(own: dict[str, tuple[int, ...]], reader: ShardReader) -> None:
    """Compare the checkpoint's model tensors with these names and shapes.

    Raises:
        ValueError: they differ; names up to five differences.
    """
    saved = {n.removeprefix("model/"): tuple(reader.shape(n)) for n in reader.names() if n.startswith("model/")}
    problems = [f"{name} is missing" for name in own if name not in saved]
    problems += [f"{name} is not in the model" for name in saved if name not in own]
    problems += [
        f"{name} is {saved[name]}, the model's is {shape}"
        for name, shape in own.items()
        if saved.get(name, shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"the checkpoint is of another model: {'; '.join(problems[:5])}{more}")


def state_keys(reader: ShardReader) -> dict[str, list[str]]:
    """Keys of the optimizer state in the checkpoint, by parameter."""
    keys: dict[str, list[str]] = {}
    for full in reader.names():
        if full.startswith("optim/"):
            _, key, name = full.split("/", 2)
            keys.setdefault(name, []).append(key)
    return keys


def fill(tensor: Tensor, name: str, reader: ShardReader) -> None:
    """Read this rank's piece into ``tensor``."""
    start, rows = rows_of(tensor)
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    if local.numel():
        piece = reader.read(name, start, rows.numel()).view(rows)
        with torch.no_grad():
            local.copy_(own_part(piece, tensor))


def rows_of(tensor: Tensor) -> tuple[int, torch.Size]:
    """Flat start and shape of the rows that this rank holds a part of; the other axes are taken whole."""
    if not isinstance(tensor, DTensor) or tensor.ndim == 0:
        return 0, tensor.shape
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return offset[0] * tensor.shape[1:].numel(), torch.Size([shape[0], *tensor.shape[1:]])


def own_part(rows: Tensor, tensor: Tensor) -> Tensor:
    """The part of these rows that this rank holds."""
    if isinstance(tensor, DTensor):
        shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        for axis in range(1, tensor.ndim):
            rows = rows.narrow(axis, offset[axis], shape[axis])
    return rows


def _shards(tensors: dict[str, Tensor]) -> Iterator[Shard]:
    for name, value in tensors.items():
        tensor, start, written = value.detach(), 0, distributed.is_main()
        if isinstance(tensor, DTensor):
            if any(placement.is_partial() for placement in tensor.placements):
                tensor = tensor.full_tensor()
            else:  # a column-wise shard is not a range of the flat tensor, a row-wise one is
                rows = [dtensor.Shard(0) if getattr(p, "dim", 0) else p for p in tensor.placements]
                tensor = tensor if rows == list(tensor.placements) else tensor.redistribute(placements=rows)
                start, _ = rows_of(tensor)
                written = _is_first_copy(tensor)
                tensor = tensor.to_local()
                written &= tensor.numel() > 0
        if written:
            yield Shard(name, tuple(value.shape), start, tensor.reshape(-1))


def _is_first_copy(tensor: DTensor) -> bool:
    """Whether no rank before this one, along the axes on which the tensor is replicated, has the same piece."""
    at = tensor.device_mesh.get_coordinate()
    assert at is not None
    return not any(i for i, placement in zip(at, tensor.placements, strict=True) if placement.is_replicate())


def _read_like(parameter: nn.Parameter, template: object, name: str, reader: ShardReader) -> Tensor:
    """A state tensor: sharded as the parameter when it has its shape, else placed as the optimizer's own is."""
    if isinstance(parameter, DTensor) and tuple(reader.shape(name)) == tuple(parameter.shape):
        local = torch.empty_like(parameter, dtype=reader.dtype(name))
        fill(local, name, reader)
        return local
    whole = reader.read_whole(name)
    if isinstance(template, DTensor):
        return distribute_tensor(
            whole.to(template.device), template.device_mesh, template.placements, src_data_rank=None
        )
    return whole


def _has_factors(
    parameters: list[nn.Parameter], names: list[str], keys: dict[str, list[str]], reader: ShardReader
) -> bool:
    """Whether a sharded parameter has state of another shape (Adafactor's rows): only the optimizer can place it."""
    return any(
        isinstance(parameter, DTensor) and reader.shape(f"optim/{key}/{name}") not in ((), tuple(parameter.shape))
        for name, parameter in zip(names, parameters, strict=True)
        for key in keys.get(name, ())
    )


def _materialise(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Let the optimizer make its state: one step with zero gradients and rate. The caller overwrites everything."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = torch.zeros_like(rate) if isinstance(rate, Tensor) else 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
