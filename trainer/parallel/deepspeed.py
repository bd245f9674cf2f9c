"""DeepSpeed ZeRO: optimizer states (1), gradients (2) and parameters (3) sharded over the ranks as flat
ranges; at stage 0 nothing is.

bf16 uses DeepSpeed's torch_autocast: the weights are fp32 everywhere, as in our other engines, and linear and
convolution layers communicate in 16 bits. DeepSpeed's bf16 section would round buffers and frozen weights as well. fp16
is our own autocast under ZeRO's external loss scale: torch_autocast's scaler clips scaled norms and grows per param
group.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import distributed
from ..precision import autocast_bytes, autocast_forward, make_scaler, set_tf32
from ..schema import deepspeed as deepspeed_json
from ..schema.parallel import DeepSpeed, OffloadDevice
from ..schema.precision import Precision
from . import nvme
from .engine import Engine, EngineState, MakeOptimizer, StepOutput
from .footprint import Footprint, Shapes, largest_unit
from .layers import transformer_layers
from .partitions import Partitions, Whole
from .state import group_options, load_state, model_tensors, model_weights, state
from .step import running_statistics, step

if TYPE_CHECKING:
    from ..checkpoint.shard import ShardReader

_NOTHING = nullcontext()
_NOT_ELEMENTWISE = ("Adafactor", "Muon", "LBFGS", "Shampoo", "SOAP", "Lamb", "LARS")


class DeepSpeedEngine(Engine):
    """DeepSpeed clips, updates and zeroes in one call; the loop's schedule acts on the client optimizer."""

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
        self._scaler = make_scaler(precision, device)
        self._swap_folders: list[nvme.SwapFolder] = []
        with ExitStack() as undo:
            undo.callback(set_tf32(precision, device))
            undo.callback(distributed.close)
            undo.enter_context(_settings(device))
            undo.callback(_forget_groups)
            distributed.init(node.ddp_backend, node.ddp_timeout, device)
            self._undo = undo.pop_all()

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
        # Not zero.Init: every rank would draw all initial values and throw most away, and a model that computes with
        # its weights while it is built (tied, scaled by depth) would see partitioned ones.
        return _NOTHING

    def setup(
        self, model: nn.Module, make_optimizer: MakeOptimizer, *, max_grad_norm: float
    ) -> tuple[nn.Module, Optimizer]:
        model.to(self.device)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        self._undo.callback(autocast_forward(model, self._precision, self.device))
        self._model = model
        optimizer = make_optimizer(model)
        if self._stage and type(optimizer).__name__ in _NOT_ELEMENTWISE:
            raise ValueError(
                f"parallel: ZeRO updates flat slices of the parameters, which {type(optimizer).__name__} cannot do; "
                "fix: parallel=fsdp, or another optimizer"
            )
        whole = Whole(
            names={parameter: name for name, parameter in model.named_parameters()},
            shapes={name: tuple(tensor.shape) for name, tensor in model_tensors(model).items()},
            groups=[group["params"] for group in group_options(model, optimizer)],
        )
        self._initialize(optimizer, self._config(max_grad_norm), make_optimizer)
        self._statistics = running_statistics(model)
        if self._stage == 0:  # DeepSpeed only averages the gradients
            self._optimizer: Optimizer = self._zero
            self._parameters, self._max_grad_norm = [p for p in model.parameters() if p.requires_grad], max_grad_norm
            return self._engine, self._optimizer
        self._optimizer = self._zero.optimizer  # DeepSpeed replaces an Adagrad
        if self._swap_folders:
            nvme.align_gradients(self._zero)
        self._partitions = Partitions(self._zero, model, whole, stage=self._stage, swapped=bool(self._swap_folders))
        self._set_scale()
        return self._engine, self._optimizer

    def _initialize(self, optimizer: Optimizer, config: dict[str, Any], make_optimizer: MakeOptimizer) -> None:
        import deepspeed

        self._swap_folders = nvme.prepare(config["zero_optimization"], self._model, make_optimizer)
        for folder in self._swap_folders:
            self._undo.callback(folder.close)
        if self._swap_folders and self._stage == 3:
            # initialize would do this as well, but 0.19.8 then takes fp32 parameters for bf16 where there is no fp16.
            deepspeed.zero.Init(module=self._model, config_dict_or_path=config)
        self._engine, self._zero, *_ = deepspeed.initialize(
            model=self._model, optimizer=optimizer, config=config, dist_init_required=False
        )
        self._undo.callback(self._engine.destroy)

    def _config(self, max_grad_norm: float) -> dict[str, Any]:
        if self._given is None:
            zero = deepspeed_json.write_zero(self._node, pin_memory=self.device.type == "cuda")
            wanted: dict[str, Any] = {"zero_optimization": zero}
        else:
            width = getattr(getattr(self._model, "config", None), "hidden_size", None)
            wanted = deepspeed_json.passed_on(self._given, width)
        # Small parameters are gathered in 16 bits like the others: persistent ones would differ in the first step.
        wanted["zero_optimization"].setdefault("stage3_param_persistence_threshold", 0)
        return wanted | {
            "train_micro_batch_size_per_gpu": 1,  # bookkeeping for its reports, which are off
            "gradient_accumulation_steps": 1,  # the loop weighs the micro-batches
            "gradient_clipping": max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "torch_autocast": {"enabled": self._precision.bf16 and self._stage > 0, "dtype": "bfloat16"},
        }

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
        """Zero the gradients: DeepSpeed (0.19.8) would use them again for a parameter that the next forward leaves
        out."""
        if self._stage == 3:
            self._zero.grad_partitions_flat_buffer.zero_()
        for flat in self._partitions.trained:
            if flat.grad is not None:
                flat.grad.zero_()

    def _set_scale(self) -> None:
        if self._scaler is not None:
            self._scaler.scale(torch.zeros((), device=self.device))  # its tensors are made at first use
            self._zero.override_loss_scale(self._scaler.get_scale())

    def state(self) -> EngineState:
        if self._stage == 0:
            return state(self._model, self._optimizer, self._scaler)
        return self._partitions.state(self._scaler)

    def load_state(self, reader: ShardReader, meta: dict[str, Any], *, weights_only: bool = False) -> None:
        if self._stage == 0:
            load_state(self._model, self._optimizer, self._scaler, reader, meta, weights_only=weights_only)
            return
        self._partitions.load(reader, meta, weights_only=weights_only)
        if self._scaler is not None and meta["scaler"] and not weights_only:
            self._scaler.load_state_dict(meta["scaler"])
            self._set_scale()

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
        self._undo.close()


@contextmanager
def _settings(device: torch.device) -> Iterator[None]:
    """The settings that DeepSpeed reads when it is imported and later, and no more of its log than warnings."""
    wanted = {"LOCAL_RANK": "0"} | ({"DS_ACCELERATOR": "cpu"} if device.type == "cpu" else {})
    added = [name for name in wanted if name not in os.environ]
    os.environ.update({name: wanted[name] for name in added})
    try:
        for name in ("DeepSpeed", "compilers"):
            logging.getLogger(name).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        import deepspeed.ops

        # Our ranks use gloo: DeepSpeed's shared-memory collectives would be compiled at first use (a minute on two
        # cores, with a lock that a killed run leaves behind).
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _forget_groups() -> None:
    """Both would outlive the process group and be taken for the next one's."""
    from deepspeed.comm import comm
    from deepspeed.utils import groups

    comm.cdb = groups._WORLD_GROUP = None
