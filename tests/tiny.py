"""The models and data that most tests train: a few thousand parameters, and sizes on which the traps bite.

97 and 193 are divided by none of 2, 3 and 4, so that every shard is uneven. `Even` and `Stack` have sizes
that 2 and 4 divide, which tensor parallelism needs.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

WIDTH, HIDDEN, CLASSES, SAMPLES = 97, 193, 10, 49


class Block(nn.Module):
    """A residual block of 6 tensors."""

    def __init__(
        self,
        width: int = WIDTH,
        hidden: int = HIDDEN,
        dropout: float = 0.1,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(self.activation(self.up(self.norm(x)))))


class Blocks(nn.Module):
    """A classifier of (B, 97): four blocks and a head, 26 tensors, 151,000 parameters."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dropout=dropout) for _ in range(4))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(x)
        return output


class Still(Blocks):
    """Without dropout."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)


class Stack(nn.Module):
    """A classifier of (B, 97) with a tensor-parallel plan of its own."""

    tp_plan = {"layers.*.up": "colwise", "layers.*.down": "rowwise"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH, 96)
        self.layers = nn.ModuleList(Block(96, 192, dropout=0.0) for _ in range(3))
        self.head = nn.Linear(96, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x)
        output: Tensor = self.head(x)
        return output


class Tied(nn.Module):
    """Tokens (B,) to logits: an embedding tied to the head, three blocks, a bare parameter, a norm; 24 tensors."""

    def __init__(
        self, vocabulary: int, width: int, hidden: int, *, bias: int, norm: type[nn.Module], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(width, hidden, dropout, torch.tanh) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(bias))
        self.mix = nn.Linear(width, width)
        self.norm = norm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(self.norm(self.mix(x) + self.bias))
        return output


class Traps(Tied):
    """Uneven sizes, a parameter that is smaller than the world, and BatchNorm's three buffers."""

    def __init__(self, dropout: float = 0.0, batch_norm: bool = True) -> None:
        norm = nn.BatchNorm1d if batch_norm else nn.LayerNorm
        super().__init__(7, WIDTH, HIDDEN, bias=1, norm=norm, dropout=dropout)


class Even(Tied):
    """Sizes that 2 and 4 divide, so that every engine can cut it."""

    PLAN = {  # noqa: RUF012
        "blocks.*.up": "colwise",
        "blocks.*.down": "rowwise",
        "embed": "embedding_rowwise",
        "head": "colwise_rep",
        "mix": "rowwise_rep",
    }

    def __init__(self) -> None:
        super().__init__(8, 48, 96, bias=48, norm=nn.LayerNorm)


class Augmented(Dataset[tuple[Tensor, int]]):
    """Fixed samples in 10 classes, 49 so that the last batch is short. Each access adds new noise from torch, numpy and
    random, unless ``augment`` is false."""

    def __init__(self, augment: bool = True, samples: int = SAMPLES) -> None:
        self.inputs = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))[:samples]
        self.augment = augment

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = self.inputs[index]
        if self.augment:
            x = x + 0.1 * torch.randn(WIDTH) + 0.1 * float(np.random.standard_normal()) + 0.1 * random.random()
        return x, index % CLASSES


PLAIN = {"_target_": "tests.tiny.Augmented", "augment": False}
"""The node of `Augmented` without noise."""
