"""What both sides train: models of about 5,000 parameters with norms and biases, and 49 samples."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset

FEATURES, WIDTH, CLASSES, SAMPLES, HELD_OUT = 12, 32, 10, 49, 21
VOCABULARY, TOKENS = 48, 10
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_positions": TOKENS,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "initializer_range": 0.1,
}


class Net(nn.Module):
    """A plain module: features to logits. From a width of 48 on its two matrices are large enough to be quantised."""

    def __init__(self, dropout: float = 0.0, width: int = WIDTH) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(FEATURES, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.final_norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.inner(x)
        x = x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))
        return self.head(self.final_norm(x))


class ScoredNet(Net):
    """The same module when it returns its own loss, as the Trainer wants it."""

    def __init__(self, dropout: float = 0.0, width: int = WIDTH) -> None:
        super().__init__(dropout, width)
        self.config = SimpleNamespace()  # the Trainer's label smoothing reads an attribute of it

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = super().forward(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Points(Dataset[dict[str, Any]]):
    """Random features, with a class that depends on them."""

    def __init__(self, held_out: bool = False) -> None:
        generator = torch.Generator().manual_seed(2 if held_out else 1)
        self.x = torch.randn(HELD_OUT if held_out else SAMPLES, FEATURES, generator=generator)
        self.labels = self.x[:, :CLASSES].argmax(1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "labels": int(self.labels[index])}


class Sentences(Dataset[dict[str, Any]]):
    """Random walks over the vocabulary; of each, from 2 tokens to all are labelled."""

    def __init__(self, held_out: bool = False) -> None:
        generator = torch.Generator().manual_seed(4 if held_out else 3)
        count = HELD_OUT if held_out else SAMPLES
        steps = torch.randint(1, 4, (count, TOKENS), generator=generator)
        self.tokens = steps.cumsum(1) % VOCABULARY
        lengths = torch.randint(2, TOKENS + 1, (count, 1), generator=generator)
        self.labels = torch.where(torch.arange(TOKENS) < lengths, self.tokens, -100)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


class Stream(IterableDataset[dict[str, Any]]):
    """Points, one after another, without a length."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        points = Points()
        return (points[i] for i in range(len(points)))


class Sparse(Sentences):
    """A fifth of the sentences has no label."""

    def __init__(self, held_out: bool = False) -> None:
        super().__init__(held_out)
        self.labels[::5] = -100


class Ragged(Sentences):
    """Sentences of 3 to 10 tokens, all labelled."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = self.tokens[index, : 3 + index * 5 % (TOKENS - 2)]
        return {"input_ids": tokens, "labels": tokens}


def padded(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Their batch, for the Trainer."""
    tokens = [item["input_ids"] for item in items]
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "labels": pad_sequence(tokens, batch_first=True, padding_value=-100),
        "attention_mask": pad_sequence([torch.ones_like(t) for t in tokens], batch_first=True),
    }
