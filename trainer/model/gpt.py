"""A decoder-only transformer, small and plain."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..schema import model as schema


class Linear(nn.Linear):
    """nn.Linear with normally distributed weights. They are drawn in reset_parameters, so that initialisation also
    works from the meta device and inside DeepSpeed's zero.Init, which partitions a weight as soon as its module is
    built."""

    def __init__(self, in_features: int, out_features: int, *, std: float, bias: bool = True) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """nn.Embedding with normally distributed weights of a given standard deviation."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, std: float) -> None:
        self.std = std
        super().__init__(num_embeddings, embedding_dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Block(nn.Module):
    """Attention and a feed-forward layer, each applied to the normalised residual stream and added to it."""

    def __init__(self, node: schema.GPT) -> None:
        super().__init__()
        width, std = node.n_embd, deviation(node)
        # each block adds twice to the stream; scaled so, all additions together have the variance of one layer
        out_std = std / (2 * node.n_layer) ** 0.5
        self.heads, self.dropout = node.n_head, node.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width, std=std)
        self.attention_out = Linear(width, width, std=out_std)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = Linear(width, 4 * width, std=std)
        self.mlp_out = Linear(4 * width, width, std=out_std)

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).movedim(2, 0).transpose(-3, -2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        x = x + F.dropout(self.attention_out(mixed.transpose(-3, -2).flatten(-2)), dropout)
        return x + F.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x)))), dropout)


def deviation(node: schema.GPT) -> float:
    """Standard deviation of the initial weights: GPT-2's 0.02, which fits its width of 768, scaled to this width. With
    it the default model's loss after 1500 steps of 4 x 128 bytes is 1.72, with 0.02 it is 2.06."""
    return float(0.02 * (768 / node.n_embd) ** 0.5)


class GPT(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size) of the next token. Learned positions, pre-norm, untied head.

    ``position_ids`` (1, T) or (B, T), the tokens' positions in their sequence, default to 0 .. T - 1.
    """

    tp_plan: ClassVar[dict[str, str]] = {"blocks.*.mlp_in": "colwise", "blocks.*.mlp_out": "rowwise"}
    """Attention stays whole: queries, keys and values are one matrix, and no contiguous range of its rows makes up
    heads."""

    def __init__(self, node: schema.GPT) -> None:
        if node.n_embd % node.n_head:
            raise ValueError(f"model.n_head={node.n_head} does not divide model.n_embd={node.n_embd}")
        super().__init__()
        self.block_size, self.dropout = node.block_size, node.dropout
        std = deviation(node)
        self.tokens = Embedding(node.vocab_size, node.n_embd, std=std)
        self.positions = Embedding(node.block_size, node.n_embd, std=std)
        self.blocks = nn.ModuleList(Block(node) for _ in range(node.n_layer))
        self.norm = nn.LayerNorm(node.n_embd)
        # small, so that the loss starts at log(vocab_size)
        self.head = Linear(node.n_embd, node.vocab_size, std=0.02, bias=False)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        length = input_ids.shape[-1]
        if length > self.block_size:
            raise ValueError(f"a sequence has {length} tokens, more than model.block_size={self.block_size}")
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)
        x = self.tokens(input_ids) + self.positions(position_ids)
        x = F.dropout(x, self.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits
