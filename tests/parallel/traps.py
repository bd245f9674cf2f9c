"""The model where the traps bite, its data, and one way to train it in any engine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainer import distributed
from trainer.build.build import build
from trainer.checkpoint import shard
from trainer.parallel.engine import Engine, MakeOptimizer
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Mesh, OffloadDevice, Single
from trainer.schema.precision import Precision

CPU = torch.device("cpu")
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


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(97)
        self.up = nn.Linear(97, 193)
        self.down = nn.Linear(193, 97)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.tanh(self.up(self.norm(x)))))


class Traps(nn.Module):
    """Sizes that 2, 3 and 4 do not divide, one smaller than the world, a tied weight: 24 tensors and 3 buffers."""

    def __init__(self, dropout: float = 0.0, batch_norm: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 97)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(1))
        self.mix = nn.Linear(97, 97)
        self.norm = nn.BatchNorm1d(97) if batch_norm else nn.LayerNorm(97)
        self.head = nn.Linear(97, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(self.mix(x) + self.bias))


class Logged(NamedTuple):
    loss: float
    grad_norm: float
    skipped: bool


class Run:
    """A model in an engine, with what a resume must bring back."""

    def __init__(
        self,
        engine: str,
        *,
        precision: Precision | None = None,
        dropout: float = 0.0,
        batch_norm: bool = True,
        max_grad_norm: float = 0.3,
        make_optimizer: MakeOptimizer | None = None,
    ) -> None:
        self.engine: Engine = build(ENGINES[engine], precision=precision or Precision(), device=CPU)
        torch.manual_seed(0)
        with self.engine.model_context():
            model = Traps(dropout, batch_norm)
        self.model, self.optimizer = self.engine.setup(model, make_optimizer or adamw, max_grad_norm=max_grad_norm)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        self.rank, self.world = distributed.rank(), distributed.world_size()

    def train(self, first: int, last: int, *, poison: int | None = None) -> list[Logged]:
        """Steps first to last-1, 12 samples in two micro-batches each; every draw follows from step and rank.
        At step ``poison`` the loss of the last rank is infinite."""
        logged = []
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            tokens = torch.randint(0, 7, (2, 12 // 2, 2), generator=generator)
            torch.manual_seed(1000 * step + self.rank)  # dropout
            losses = []
            for i, micro_batch in enumerate(tokens):
                mine = micro_batch[self.rank :: self.world]
                with self.engine.accumulate(last=i == 1):
                    loss = nn.functional.cross_entropy(self.model(mine[:, 0]), mine[:, 1]) / 2
                    if step == poison and self.rank == self.world - 1:
                        loss = loss * float("inf")
                    self.engine.backward(loss)
                losses.append(loss.detach())
            out = self.engine.step(skip_nonfinite=poison is not None)
            if not out.skipped:
                self.scheduler.step()
            total = distributed.all_reduce_sum(torch.stack(losses).sum()) / self.world
            logged.append(Logged(float(total), float(out.grad_norm), out.skipped))
        return logged

    def save(self, directory: Path) -> dict[str, Any]:
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
        reader = shard.ShardReader(directory)
        return {n: hashlib.sha256(reader.read(n).view(torch.uint8).numpy()).hexdigest()[:16] for n in reader.names()}


def adamw(model: nn.Module) -> Optimizer:
    """Two groups, as the weight decay rule makes them."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=2e-3)
