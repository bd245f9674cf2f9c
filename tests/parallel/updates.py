"""Clipped, accumulated, scheduled updates of one small model, the same in any engine."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tests.devices import own_device
from tests.tiny import Even, Traps
from trainer import distributed
from trainer.build.build import build
from trainer.checkpoint import shard
from trainer.parallel.engine import Engine, MakeOptimizer
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Mesh, OffloadDevice, Single
from trainer.schema.precision import Precision

ENGINES: dict[str, Any] = {
    "single": Single(),
    "ddp": DDP(ddp_timeout=60),
    "fsdp": FSDP(ddp_timeout=60),
    "zero0": DeepSpeed(ddp_timeout=60, zero_stage=0),
    "zero1": DeepSpeed(ddp_timeout=60, zero_stage=1),
    "zero2": DeepSpeed(ddp_timeout=60, zero_stage=2),
    "zero3": DeepSpeed(ddp_timeout=60, zero_stage=3),
    "zero2_offload": DeepSpeed(ddp_timeout=60, zero_stage=2, offload_optimizer=OffloadDevice.cpu),
    "zero3_offload": DeepSpeed(
        ddp_timeout=60, zero_stage=3, offload_optimizer=OffloadDevice.cpu, offload_param=OffloadDevice.cpu
    ),
    "hybrid": Mesh(ddp_timeout=60, dp_replicate_size=2),
}
ACCUMULATION = 2


class Logged(NamedTuple):
    """An update: the loss over all ranks, the gradient's norm, and whether it was skipped."""

    loss: float
    grad_norm: float
    skipped: bool


def adamw(model: nn.Module) -> Optimizer:
    """Two groups, as the weight decay rule makes them."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=2e-3)


class Run:
    """A model in an engine, with what a resume must bring back."""

    samples, vocabulary, decay = 12, 7, 1.0

    def __init__(
        self,
        node: Any,
        make_model: Callable[[], nn.Module] = Traps,
        *,
        precision: Precision | None = None,
        max_grad_norm: float = 0.3,
        make_optimizer: MakeOptimizer = adamw,
    ) -> None:
        device = own_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.engine: Engine = build(
            ENGINES[node] if isinstance(node, str) else node, precision=precision or Precision(), device=device
        )
        torch.manual_seed(0)
        with self.engine.model_context():
            model = make_model()
        self.model, self.optimizer = self.engine.setup(model, make_optimizer, max_grad_norm=max_grad_norm)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (1 + self.decay * step))
        self.device, self.rank, self.world = device, distributed.rank(), distributed.world_size()

    def tokens(self, step: int) -> Tensor:
        """The inputs and labels of an update, (micro-batch, sample, 2); random labels."""
        generator = torch.Generator().manual_seed(step)
        size = (ACCUMULATION, self.samples // ACCUMULATION, 2)
        return torch.randint(0, self.vocabulary, size, generator=generator)

    def train(self, first: int, last: int, *, poison: int | None = None) -> list[Logged]:
        """Steps first to last-1, in two micro-batches of each rank or group of ranks; every draw follows from step and
        rank. At step ``poison`` the loss of the last rank is infinite."""
        logged, shared = [], self.engine.ranks_per_batch
        for step in range(first, last):
            torch.manual_seed(1000 * step + self.rank)  # dropout
            total = torch.zeros((), device=self.device)
            for i, micro_batch in enumerate(self.tokens(step)):
                own = micro_batch[self.rank // shared :: self.world // shared].to(self.device)
                with self.engine.accumulate(last=i + 1 == ACCUMULATION):
                    loss = nn.functional.cross_entropy(self.model(own[:, 0]), own[:, 1]) / ACCUMULATION
                    if step == poison and self.rank == self.world - 1:
                        loss = loss * float("inf")
                    self.engine.backward(loss)
                total += loss.detach()
            out = self.engine.step(skip_nonfinite=poison is not None)
            if not out.skipped:
                self.scheduler.step()
            total = distributed.all_reduce_sum(total) / self.world
            logged.append(Logged(float(total), float(out.grad_norm), out.skipped))
        return logged

    def save(self, directory: Path) -> dict[str, Any]:
        """Write the engine's whole state; what else a load needs."""
        state = self.engine.state()
        if distributed.is_main():
            directory.mkdir()
        distributed.barrier()
        shard.write(directory / shard.file_name(self.rank), state.shards)
        distributed.barrier()
        return state.meta | {"schedule": self.scheduler.state_dict()["last_epoch"]}

    def load(self, directory: Path, meta: dict[str, Any]) -> None:
        self.engine.load_state(shard.ShardReader(directory), meta)
        self.scheduler.last_epoch = meta["schedule"]

    def digest(self, directory: Path) -> dict[str, str]:
        """Digest of every tensor of the whole state, by name."""
        self.save(directory)
        return digests(directory)


class EvenRun(Run):
    """16 samples with something to learn, for engines that cut the model in equal parts."""

    samples, vocabulary, decay = 16, 8, 0.1

    def __init__(self, node: Any, precision: Precision | None = None) -> None:
        super().__init__(node, Even, precision=precision)

    def tokens(self, step: int) -> Tensor:
        tokens = super().tokens(step)
        tokens[..., 1] = (tokens[..., 0] * 3 + 1) % 8
        return tokens


def digests(directory: Path) -> dict[str, str]:
    """Digest of every tensor that was saved, by name."""
    reader = shard.ShardReader(directory)
    return {n: hashlib.sha256(reader.read(n).view(torch.uint8).numpy()).hexdigest()[:16] for n in reader.names()}


def run_each(nodes: dict[str, Any], precision: Precision, steps: int) -> dict[str, list[Logged]]:
    """Every engine's run, one after the other in the same ranks."""
    logged = {}
    for name, node in nodes.items():
        run = EvenRun(node, precision)
        logged[name] = run.train(0, steps)
        distributed.keep_store()
        run.engine.close()
        del run
        gc.collect()
    return logged
