"""DeepSpeed ZeRO: optimizer states (1), gradients (2) and parameters (3) sharded, as flat ranges, over the ranks; at
stage 0 nothing.

bf16 goes by DeepSpeed's torch_autocast: the weights are fp32 everywhere, as in our other engines, and what linear and
convolution layers communicate is 16-bit. Its bf16 section would round buffers and frozen weights as well. fp16 is our
own autocast under ZeRO's external loss scale: torch_autocast's scaler clips scaled norms and grows per param group.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import distributed
from ..checkpoint.shard import Shard
from ..precision import autocast_bytes, autocast_forward, make_scaler, set_tf32
from ..schema import deepspeed as deepspeed_json
from ..schema.parallel import DeepSpeed, OffloadDevice
from ..schema.precision import Precision
from . import nvme
from .engine import Engine, EngineState, MakeOptimizer, StepOutput
from .footprint import Footprint, Shapes, largest_unit
from .layers import transformer_layers
from .state import (
    check_names,  # fmt: skip
    fill,
    group_options,
    load_groups,
    load_state,
    meta,
    model_tensors,
    model_weights,
    state,
    state_keys,
)
from .step import running_statistics, step

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader

_NOTHING = nullcontext()
_NOT_ELEMENTWISE = ("Adafactor", "Muon", "LBFGS", "Shampoo", "SOAP", "Lamb", "LARS")


@dataclass(slots=True)
class _Fragment:
    """Where a parameter's elements from ``start`` on lie in one of this rank's flat fp32 partitions."""

    name: str
    start: int
    flat: Tensor
    offset: int
    numel: int

    def of(self, flat: Tensor) -> Tensor:
        """This fragment of a tensor that is laid out as the partition: the weights, or an optimizer state."""
        return flat.detach().narrow(0, self.offset, self.numel)


class DeepSpeedEngine(Engine):
    """Clipping, updating and zeroing are one call of DeepSpeed's; the loop's schedule acts on the client optimizer."""

    def __init__(self, node: DeepSpeed, *, precision: Precision, device: torch.device) -> None:
        if precision.fp16 and device.type == "cpu":
            raise ValueError(
                "precision.fp16=true: DeepSpeed has no fp16 on the CPU; fix: precision=bf16 or parallel=fsdp"
            )
        self.device = device
        self._node = node
        self._given: dict[str, Any] | None = node.config
        self._stage: int = deepspeed_json.effective(node).zero_stage
        self._precision = precision
        set_tf32(precision, device)
        self._scaler = make_scaler(precision, device)
        self._engine: Any = None
        self._swap_folders: list[nvme.SwapFolder] = []
        self._owners: dict[int, int | nn.Parameter] = {}
        self._lent = _prepare(device)
        distributed.init(node.ddp_backend, node.ddp_timeout, device)

    @staticmethod
    def footprint(
        node: DeepSpeed, shapes: Shapes, *, precision: Precision, world_size: int, local_world_size: int
    ) -> Footprint:
        node = deepspeed_json.effective(node)
        stage, gradients, whole = node.zero_stage, shapes.gradient_bytes, shapes.parameter_bytes
        updated = shapes.optimizer_bytes + gradients  # ZeRO updates fp32 copies of its own
        gathered = 2 * largest_unit(shapes.model, transformer_layers(shapes.model)) if stage == 3 else 0
        held = Footprint(
            parameters=math.ceil(whole / world_size) if stage == 3 else whole,
            gradients=math.ceil(gradients / world_size) if stage >= 2 else gradients,
            optimizer=math.ceil(updated / world_size) if stage else updated,
            buffers=shapes.buffers,
            # one bucket is filled while the one before is reduced
            communication=2 * min(node.reduce_bucket_size * 4, gradients) + gathered * autocast_bytes(precision) // 4,
            activations=shapes.activations,
        )
        for part, device in (("optimizer", node.offload_optimizer), ("parameters", node.offload_param)):
            if device is not OffloadDevice.none:
                held = held.offloaded(part, to_host=device is OffloadDevice.cpu)
        return held

    def model_context(self) -> AbstractContextManager[Any]:
        # Not zero.Init: it would draw each parameter's initial values and throw most away, and a model that computes
        # with its weights while it is built (tied, scaled by depth) sees partitioned ones.
        return _NOTHING

    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        import deepspeed

        model.to(self.device)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        autocast_forward(model, self._precision, self.device)
        self._model = model
        self._shapes = {name: tuple(tensor.shape) for name, tensor in model_tensors(model).items()}
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        optimizer = make_optimizer(model)
        if self._stage and type(optimizer).__name__ in _NOT_ELEMENTWISE:
            raise ValueError(
                f"parallel: ZeRO updates flat slices of the parameters, which {type(optimizer).__name__} cannot do; "
                "fix: parallel=fsdp, or another optimizer"
            )
        self._group_names = [group["params"] for group in group_options(model, optimizer)]
        config = self._config(max_grad_norm)
        self._swap_folders = nvme.prepare(config["zero_optimization"], model, make_optimizer)
        if self._swap_folders and self._stage == 3:
            # initialize would do this as well, but 0.19.8 then takes fp32 parameters for bf16 where there is no fp16.
            deepspeed.zero.Init(module=model, config_dict_or_path=config)
        self._engine, self._zero, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self._statistics = running_statistics(model)
        if self._stage == 0:  # DeepSpeed only averages the gradients
            self._optimizer: Optimizer = self._zero
            self._parameters, self._max_grad_norm = [p for p in model.parameters() if p.requires_grad], max_grad_norm
            return self._engine, self._optimizer
        self._optimizer = self._zero.optimizer  # DeepSpeed replaces an Adagrad
        if self._swap_folders:
            nvme.align_gradients(self._zero)
        self._flats, self._fragments = self._stage3() if self._stage == 3 else self._stage12()
        self._partitions = list({id(flat): flat for flat in self._flats.values()}.values())
        self._set_scale()
        return self._engine, self._optimizer

    def _config(self, max_grad_norm: float) -> dict[str, Any]:
        if self._given is None:
            zero = deepspeed_json.write_zero(self._node, pin_memory=self.device.type == "cuda")
            wanted: dict[str, Any] = {"zero_optimization": zero}
        else:
            width = getattr(getattr(self._model, "config", None), "hidden_size", None)
            wanted = deepspeed_json.passed_on(self._given, width)
        # Small parameters, too, always come the way of the 16-bit gathers: kept ones differ in the first step.
        wanted["zero_optimization"].setdefault("stage3_param_persistence_threshold", 0)
        return wanted | {
            "train_micro_batch_size_per_gpu": 1,  # bookkeeping for its reports, which are off
            "gradient_accumulation_steps": 1,  # the loop weighs the micro-batches
            "gradient_clipping": max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "torch_autocast": {"enabled": self._precision.bf16 and self._stage > 0, "dtype": "bfloat16"},
        }

    def _stage12(self) -> tuple[dict[str, Tensor], list[_Fragment]]:
        flats: dict[str, Tensor] = {}
        fragments = []
        for flat, group in zip(self._zero.single_partition_of_fp32_groups, self._zero.bit16_groups, strict=True):
            for parameter in group:
                name = self._names[parameter]
                flats[name] = flat
                if (mapping := parameter._hp_mapping) is not None:
                    mine, inside = mapping.lp_fragment_address, mapping.hp_fragment_address
                    fragments.append(_Fragment(name, mine.start, flat, inside.start, inside.numel))
        return flats, fragments

    def _stage3(self) -> tuple[dict[str, Tensor], list[_Fragment]]:
        flats: dict[str, Tensor] = {}
        fragments = []
        for parameter, name in self._names.items():
            size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            start = distributed.rank() * size
            numel = min(size, parameter.ds_numel - start)  # type: ignore[attr-defined]
            flat, offset = parameter.ds_tensor, 0  # type: ignore[attr-defined]
            self._owners[id(flat)] = parameter
            if parameter.requires_grad:
                group, offset, _ = self._zero.grad_position[self._zero.get_param_id(parameter)]
                flat = flats[name] = self._zero.fp32_partitioned_groups_flat[group]
                self._owners[id(flat)] = group
            if numel > 0:
                fragments.append(_Fragment(name, start, flat, offset, numel))
        return flats, fragments

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        self._engine.set_gradient_accumulation_boundary(last)
        return _NOTHING

    def backward(self, loss: Tensor) -> None:
        if self._stage == 0 and self._scaler is not None:
            loss = self._scaler.scale(loss)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, *, skip_nonfinite: bool = False) -> StepOutput:
        for buffer in self._statistics:
            dist.broadcast(buffer, 0)
        if self._stage == 0:
            return step(self._parameters, self._optimizer, self._scaler, self._max_grad_norm, skip_nonfinite)
        if self._swap_folders:
            nvme.before_update(self._zero, self._model)
        # ZeRO makes no update, and clears its buffers, whenever the norm is not finite.
        self._engine.step()
        self._forget_gradients()
        skipped = bool(self._zero.overflow)
        if self._scaler is not None:
            found = self._scaler._per_optimizer_states[id(self._optimizer)]["found_inf_per_device"]
            found[self.device] = torch.tensor(float(skipped), device=self.device)
            self._scaler.update()
            self._set_scale()
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32, device=self.device)
        return StepOutput(norm, skipped)

    def _forget_gradients(self) -> None:
        """Zero what DeepSpeed (0.19.8) would use once more for a parameter that the next forward leaves out."""
        if self._stage == 3:
            self._zero.grad_partitions_flat_buffer.zero_()
        for flat in self._partitions:
            if flat.grad is not None:
                flat.grad.zero_()

    def _set_scale(self) -> None:
        if self._scaler is not None:
            self._scaler.scale(torch.zeros((), device=self.device))  # it makes its tensors at first use
            self._zero.override_loss_scale(self._scaler.get_scale())

    def state(self) -> EngineState:
        if self._stage == 0:
            return state(self._model, self._optimizer, self._scaler)
        on_disk = nvme.on_disk(self._zero, self._model) if self._swap_folders else {}
        shards: list[Shard] = []
        values: dict[str, dict[str, Any]] = {}
        for fragment in self._fragments:
            name, shape, flat = fragment.name, self._shapes[fragment.name], fragment.flat
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
            for name, tensor in self._whole_tensors().items():
                shards.append(Shard(f"model/{name}", tuple(tensor.shape), 0, tensor.detach().reshape(-1)))
        return EngineState(shards, meta(self._group_options(), values, self._scaler))

    def _whole_tensors(self) -> dict[str, Tensor]:
        """Buffers, and frozen parameters where those are not sharded."""
        in_fragments = self._names.values() if self._stage == 3 else self._flats.keys()
        return {name: tensor for name, tensor in model_tensors(self._model).items() if name not in in_fragments}

    def _group_options(self) -> list[dict[str, Any]]:
        groups = self._optimizer.param_groups
        return [
            {k: v.item() if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"} | {"params": names}
            for group, names in zip(groups, self._group_names, strict=True)
        ]

    def load_state(self, reader: ShardReader, meta: dict[str, Any], *, weights_only: bool = False) -> None:
        if self._stage == 0:
            load_state(self._model, self._optimizer, self._scaler, reader, meta, weights_only=weights_only)
            return
        check_names(self._shapes, reader)
        if self._stage == 3:
            self._zero._partition_all_parameters()
        if self._swap_folders:
            nvme.release_prefetched(self._model)
        if not weights_only:
            self._load_options(meta)
        keys = state_keys(reader)
        for flat in {id(f): f for f in (*self._flats.values(), *(f.flat for f in self._fragments))}.values():
            with nvme.writable(self._zero, self._owners[id(flat)]) if self._stage == 3 else _NOTHING:
                for fragment in self._fragments:
                    if fragment.flat is flat:
                        piece = reader.read(f"model/{fragment.name}", fragment.start, fragment.numel)
                        fragment.of(flat).copy_(piece)
                if not weights_only:
                    self._load_states(flat, reader, keys, meta["optim_values"])
        for name, tensor in self._whole_tensors().items():
            fill(tensor, f"model/{name}", reader)
        # What forward reads is brought up to the partitions, as DeepSpeed does after an update.
        if self._stage < 3:
            self._zero.update_lp_params()
        elif self._zero.persistent_parameters:
            self._zero.persistent_parameters[0].all_gather(self._zero.persistent_parameters)

    def _load_options(self, meta: dict[str, Any]) -> None:
        for group, options in zip(self._optimizer.param_groups, load_groups(self._group_options(), meta), strict=True):
            group.update(options)
        if self._scaler is not None and meta["scaler"]:
            self._scaler.load_state_dict(meta["scaler"])
            self._set_scale()

    def _load_states(
        self, flat: Tensor, reader: ShardReader, keys: dict[str, list[str]], all_values: dict[str, dict[str, Any]]
    ) -> None:
        on_cpu = {
            name: not (group.get("fused") or group.get("capturable"))
            for group, names in zip(self._optimizer.param_groups, self._group_names, strict=True)
            for name in names
        }
        for name in [name for name, mine in self._flats.items() if mine is flat]:
            state = self._optimizer.state[flat]
            saved = keys.get(name, [])
            values = all_values.get(name, {})
            for key in set(state) - set(saved) - set(values):
                del state[key]
            state.update(values)
            for key in saved:
                full = f"optim/{key}/{name}"
                if tuple(reader.shape(full)) != self._shapes[name]:
                    # torch keeps the step counter on the CPU unless a kernel reads it
                    device = torch.device("cpu") if key == "step" and on_cpu[name] else flat.device
                    state[key] = reader.read_whole(full).to(device)
                elif key not in state:
                    state[key] = torch.zeros_like(flat, dtype=reader.dtype(full))
        for fragment in self._fragments:
            if fragment.flat is flat:
                for key in keys.get(fragment.name, ()):
                    full = f"optim/{key}/{fragment.name}"
                    if tuple(reader.shape(full)) == self._shapes[fragment.name]:
                        piece = reader.read(full, fragment.start, fragment.numel)
                        fragment.of(self._optimizer.state[flat][key]).copy_(piece)

    def weights(self) -> dict[str, Tensor] | None:
        if self._stage < 3:
            return model_weights(self._model)
        import deepspeed

        whole: dict[int, Tensor] = {}
        names = self._model.state_dict(keep_vars=True)
        for value in names.values():
            if id(value) not in whole:
                with deepspeed.zero.GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
                    whole[id(value)] = value.detach().cpu().clone() if distributed.is_main() else value
        return {name: whole[id(value)] for name, value in names.items()} if distributed.is_main() else None

    def close(self) -> None:
        if self._engine is not None:
            from deepspeed.comm import comm
            from deepspeed.utils import groups

            self._engine.destroy()
            # Both would outlive the process group and be taken for the next one's.
            comm.cdb = groups._WORLD_GROUP = None
        for folder in self._swap_folders:
            folder.close()
        for name in self._lent:
            os.environ.pop(name, None)
        distributed.close()


def _prepare(device: torch.device) -> list[str]:
    """Settings that DeepSpeed reads when it is imported and later, and peace from its chatter. Returns the environment
    variables that were set for it."""
    wanted = {"LOCAL_RANK": "0"} | ({"DS_ACCELERATOR": "cpu"} if device.type == "cpu" else {})
    lent = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in lent})
    for name in ("DeepSpeed", "compilers"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    import deepspeed.ops

    # Our ranks speak gloo: its shared-memory collectives would be compiled at first use (a minute on two cores, with a
    # lock that a killed run leaves behind).
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return lent
