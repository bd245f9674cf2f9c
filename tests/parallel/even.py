"""A model whose sizes 2 and 4 divide, so that every engine can cut it, and runs of it that follow each other in one
process."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tests.parallel.traps import CPU, Logged, adamw
from trainer import distributed
from trainer.build.build import build
from trainer.schema.precision import Precision

PLAN = {
    "blocks.*.up": "colwise",
    "blocks.*.down": "rowwise",
    "embed": "embedding_rowwise",
    "head": "colwise_rep",
    "mix": "rowwise_rep",
}
SAMPLES, ACCUMULATION = 16, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(48)
        self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Even(nn.Module):
    """A tied weight, a bare parameter, norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 48)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(48))
        self.mix = nn.Linear(48, 48)
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(self.mix(x) + self.bias))
        return out


class EvenRun:
    """The same model, data, clipping and schedule in any engine."""

    def __init__(self, node: Any, precision: Precision | None = None, max_grad_norm: float = 0.3) -> None:
        self.engine = build(node, precision=precision or Precision(), device=CPU)
        torch.manual_seed(0)
        with self.engine.model_context():
            model = Even()
        self.model, self.optimizer = self.engine.setup(model, adamw, max_grad_norm=max_grad_norm)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (1 + 0.1 * step))

    def train(self, first: int, last: int) -> list[Logged]:
        """Updates of 16 samples, in two micro-batches of each rank or group of ranks."""
        engine, logged, shared = self.engine, [], self.engine.ranks_per_batch
        rank, world = distributed.rank() // shared, distributed.world_size() // shared
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            tokens = torch.randint(0, 8, (ACCUMULATION, SAMPLES // ACCUMULATION, 2), generator=generator)
            tokens[..., 1] = (tokens[..., 0] * 3 + 1) % 8  # something to learn
            total = torch.zeros(())
            for i, micro_batch in enumerate(tokens):
                own = micro_batch[rank::world]
                with engine.accumulate(last=i + 1 == ACCUMULATION):
                    loss = nn.functional.cross_entropy(self.model(own[:, 0]), own[:, 1]) / ACCUMULATION
                    engine.backward(loss)
                total += loss.detach()
            out = engine.step()
            if not out.skipped:
                self.scheduler.step()
            total = distributed.all_reduce_sum(total) / distributed.world_size()
            logged.append(Logged(float(total), float(out.grad_norm), out.skipped))
        return logged


def one_after_the_other(nodes: dict[str, Any], precision: Precision, steps: int) -> dict[str, list[Logged]]:
    """Every engine's run, in the same ranks."""
    logged = {}
    for name, node in nodes.items():
        run = EvenRun(node, precision)
        logged[name] = run.train(0, steps)
        distributed.keep_store()
        run.engine.close()
        del run
        gc.collect()
    return logged
