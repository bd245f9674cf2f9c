"""ZeRO's flat fp32 partitions (stages 1 to 3): where each parameter's elements lie in them, and their way to a
checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import distributed
from ..checkpoint.shard import Shard
from . import nvme
from .engine import EngineState
from .state import check_names, fill, load_groups, meta, model_tensors, state_keys

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """What a model and its optimizer's groups are called and look like before DeepSpeed cuts them."""

    names: dict[nn.Parameter, str]
    shapes: dict[str, tuple[int, ...]]
    """Of parameters and saved buffers."""
    groups: list[list[str]]
    """Parameter names of each param group."""


@dataclass(slots=True)
class _Fragment:
    """Where a parameter's elements from ``start`` on lie in one of this rank's partitions."""

    name: str
    start: int
    flat: Tensor
    offset: int
    numel: int

    def of(self, flat: Tensor) -> Tensor:
        """This fragment of a tensor that is laid out as the partition: the weights, or an optimizer state."""
        return flat.detach().narrow(0, self.offset, self.numel)


class Partitions:
    """This rank's partitions of DeepSpeed's ``zero`` optimizer; ``swapped``: some of it is on disk."""

    def __init__(self, zero: Any, model: nn.Module, whole: Whole, *, stage: int, swapped: bool) -> None:
        self._zero, self._model, self._whole = zero, model, whole
        self._optimizer: Optimizer = zero.optimizer
        self._stage, self._swapped = stage, swapped
        self._flats: dict[str, Tensor] = {}
        """Parameter name -> the partition that holds its trained elements."""
        self._fragments: list[_Fragment] = []
        self._owners: dict[int, int | nn.Parameter] = {}
        """Stage 3: a partition's id -> its sub group, or the frozen parameter that it is."""
        if stage == 3:
            self._find_stage3()
        else:
            self._find_stage12()
        self.trained = _distinct(self._flats.values())
        """The partitions that the optimizer updates."""
        self._all = _distinct([*self._flats.values(), *(fragment.flat for fragment in self._fragments)])

    def _find_stage12(self) -> None:
        for flat, group in zip(self._zero.single_partition_of_fp32_groups, self._zero.bit16_groups, strict=True):
            for parameter in group:
                name = self._whole.names[parameter]
                self._flats[name] = flat
                if (mapping := parameter._hp_mapping) is not None:
                    source, target = mapping.lp_fragment_address, mapping.hp_fragment_address
                    self._fragments.append(_Fragment(name, source.start, flat, target.start, target.numel))

    def _find_stage3(self) -> None:
        for parameter, name in self._whole.names.items():
            size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            start = distributed.rank() * size
            numel = min(size, parameter.ds_numel - start)  # type: ignore[attr-defined]
            flat, offset = parameter.ds_tensor, 0  # type: ignore[attr-defined]
            self._owners[id(flat)] = parameter
            if parameter.requires_grad:
                group, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
                flat = self._flats[name] = self._zero.fp32_partitioned_groups_flat[group]
                self._owners[id(flat)] = group
            if numel > 0:
                self._fragments.append(_Fragment(name, start, flat, offset, numel))

    def state(self, scaler: torch.amp.GradScaler | None) -> EngineState:
        """This rank's shards."""
        on_disk = nvme.on_disk(self._zero, self._model) if self._swapped else {}
        shards: list[Shard] = []
        values: dict[str, dict[str, Any]] = {}
        for fragment in self._fragments:
            name, shape, flat = fragment.name, self._whole.shapes[fragment.name], fragment.flat
            shards.append(Shard(f"model/{name}", shape, fragment.start, fragment.of(on_disk.get(id(flat), flat))))
            for key, value in self._optimizer.state.get(flat, {}).items():
                if isinstance(value, Tensor) and value.shape == flat.shape:
                    piece = fragment.of(on_disk.get(id(value), value))
                    shards.append(Shard(f"optim/{key}/{name}", shape, fragment.start, piece))
        for name, flat in self._flats.items():
            for key, value in self._optimizer.state.get(flat, {}).items():
                if not isinstance(value, Tensor):
                    values.setdefault(name, {})[key] = value
                elif value.shape != flat.shape and distributed.is_main():
                    shards.append(Shard(f"optim/{key}/{name}", tuple(value.shape), 0, value.detach().reshape(-1)))
        if distributed.is_main():
            for name, tensor in self._replicated().items():
                shards.append(Shard(f"model/{name}", tuple(tensor.shape), 0, tensor.detach().reshape(-1)))
        return EngineState(shards, meta(self._group_options(), values, scaler))

    def load(self, reader: ShardReader, meta: dict[str, Any], *, weights_only: bool) -> None:
        """Fill the partitions and, unless weights_only, the optimizer (collective)."""
        check_names(self._whole.shapes, reader)
        if self._stage == 3:
            self._zero._partition_all_parameters()
        if self._swapped:
            nvme.release_prefetched(self._model)
        if not weights_only:
            saved = load_groups(self._group_options(), meta)
            for group, options in zip(self._optimizer.param_groups, saved, strict=True):
                group.update(options)
        keys = state_keys(reader)
        for flat in self._all:
            with nvme.writable(self._zero, self._owners[id(flat)]) if self._stage == 3 else nullcontext():
                for fragment in self._fragments:
                    if fragment.flat is flat:
                        piece = reader.read(f"model/{fragment.name}", fragment.start, fragment.numel)
                        fragment.of(flat).copy_(piece)
                if not weights_only:
                    self._load_optimizer_state(flat, reader, keys, meta["optim_values"])
        for name, tensor in self._replicated().items():
            fill(tensor, f"model/{name}", reader)
        # What forward reads is brought up to the partitions, as DeepSpeed does after an update.
        if self._stage < 3:
            self._zero.update_lp_params()
        elif self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def _load_optimizer_state(
        self, flat: Tensor, reader: ShardReader, keys: dict[str, list[str]], all_values: dict[str, dict[str, Any]]
    ) -> None:
        shapes, state = self._whole.shapes, self._optimizer.state[flat]
        for name in [name for name, partition in self._flats.items() if partition is flat]:
            saved, values = keys.get(name, []), all_values.get(name, {})
            for key in set(state) - set(saved) - set(values):
                del state[key]
            state.update(values)
            for key in saved:
                full = f"optim/{key}/{name}"
                if tuple(reader.shape(full)) != shapes[name]:
                    # torch keeps the step count on the CPU unless a kernel reads it
                    device = torch.device("cpu") if key == "step" and self._steps_on_cpu(name) else flat.device
                    state[key] = reader.read_whole(full).to(device)
                elif key not in state:
                    state[key] = torch.zeros_like(flat, dtype=reader.dtype(full))
        for fragment in self._fragments:
            if fragment.flat is flat:
                for key in keys.get(fragment.name, ()):
                    full = f"optim/{key}/{fragment.name}"
                    if tuple(reader.shape(full)) == shapes[fragment.name]:
                        fragment.of(state[key]).copy_(reader.read(full, fragment.start, fragment.numel))

    def _steps_on_cpu(self, name: str) -> bool:
        """Whether the group of a parameter leaves its step count on the CPU."""
        groups = zip(self._optimizer.param_groups, self._whole.groups, strict=True)
        return not any(name in names and (group.get("fused") or group.get("capturable")) for group, names in groups)

    def _replicated(self) -> dict[str, Tensor]:
        """Buffers, and frozen parameters where those are not sharded."""
        sharded = self._whole.names.values() if self._stage == 3 else self._flats.keys()
        return {name: tensor for name, tensor in model_tensors(self._model).items() if name not in sharded}

    def _group_options(self) -> list[dict[str, Any]]:
        groups = zip(self._optimizer.param_groups, self._whole.groups, strict=True)
        return [
            {k: v.item() if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"} | {"params": names}
            for group, names in groups
        ]


def _distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each object once, in order."""
    return list({id(tensor): tensor for tensor in tensors}.values())
