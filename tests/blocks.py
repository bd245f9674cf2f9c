"""A model and data on which the traps of resuming and of several ranks bite: sizes that 2, 3 and 4 do not divide,
norms, dropout, 26 tensors; 49 samples, so that the last batch is short, augmented from every generator at once.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

WIDTH, HIDDEN, CLASSES, SAMPLES = 97, 193, 10, 49


class Block(nn.Module):
    """A residual block of 6 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.nn.functional.gelu(self.up(self.norm(x)))))


class Blocks(nn.Module):
    """Four blocks and a head: 26 tensors, 151,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.head(x)
        return output


class Augmented(Dataset[tuple[Tensor, int]]):
    """49 fixed samples in 10 classes; each access adds new noise from torch, numpy and random."""

    def __init__(self, augment: bool = True) -> None:
        self.inputs = torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))
        self.augment = augment

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = self.inputs[index]
        if self.augment:
            x = x + 0.1 * torch.randn(WIDTH) + 0.1 * float(np.random.standard_normal()) + 0.1 * random.random()
        return x, index % CLASSES
