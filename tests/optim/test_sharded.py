"""Our own optimizers on FSDP2's shards: two ranks give what one process gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.ranks import run_ranks
from trainer.optim import make_optimizer
from trainer.schema import optim as schema


def model() -> nn.Module:
    torch.manual_seed(0)
    # 7 and 5 rows: shards of different sizes
    return nn.Sequential(nn.Linear(6, 7), nn.LayerNorm(7), nn.Linear(7, 5), nn.Linear(5, 3))


def train(module: nn.Module, node: schema.Optim) -> list[Tensor]:
    optimizer = make_optimizer(node, module)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        module(torch.randn(4, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in module.parameters()]
    return [p.detach() for p in whole]


def sharded(node: schema.Optim) -> list[Any]:
    torch.distributed.init_process_group("gloo")
    module = model()
    fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    result = [p.tolist() for p in train(module, node)]
    torch.distributed.destroy_process_group()
    return result


@pytest.mark.parametrize(
    "node",
    [
        schema.Adafactor(learning_rate=1e-2, weight_decay=0.1, beta1=0.9),
        schema.Muon(learning_rate=1e-2, weight_decay=0.1),
    ],
    ids=["adafactor", "muon"],
)
def test_two_ranks_give_what_one_gives(node: schema.Optim) -> None:
    expected = train(model(), node)
    for result in run_ranks(sharded, node):
        torch.testing.assert_close([torch.tensor(p) for p in result], expected, rtol=1e-4, atol=1e-5)
