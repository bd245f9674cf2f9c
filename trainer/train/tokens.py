"""The number of tokens that training has seen, counted without a synchronisation per step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .. import distributed
from ..data.batches import MicroBatch
from ..schema.logging import Logging, TokenCount


class TokenCounter:
    """Counts the elements of the model's main input, on this rank until ``total()`` sums over all ranks."""

    def __init__(self, model: nn.Module, kind: TokenCount, device: torch.device) -> None:
        self.name: str = getattr(model, "main_input_name", "input_ids")
        parameters = inspect.signature(model.forward).parameters
        if self.name not in parameters and parameters:
            self.name = next(iter(parameters))
        self.padding: int | None = getattr(getattr(model, "config", None), "pad_token_id", None)
        self.kind, self.reports_total = kind, True
        self.seen = 0
        self.resumed = 0
        """The part of ``seen`` that was counted before the checkpoint that was loaded."""
        self._here, self._masked = 0, torch.zeros((), dtype=torch.int64, device=device)

    @classmethod
    def of(cls, model: nn.Module, node: Logging, device: torch.device) -> TokenCounter | None:
        """The counter that the config asks for, or None."""
        kind = node.include_num_input_tokens_seen
        if kind is TokenCount.no and node.include_tokens_per_second:
            kind = TokenCount.all
        if kind is TokenCount.no:
            return None
        counter = cls(model, kind, device)
        counter.reports_total = node.include_num_input_tokens_seen is not TokenCount.no
        return counter

    def add(self, micro_batches: list[MicroBatch], *, ranks: int = 1) -> None:
        """Count an update's micro-batches on the first of the ``ranks`` that share them, without those that only let a
        rank take part in the collectives."""
        if distributed.rank() % ranks:
            return
        for batch, divisor in micro_batches:
            if math.isinf(divisor):
                continue
            ids: Tensor = batch[self.name] if isinstance(batch, Mapping) else batch[0]
            if self.kind is TokenCount.non_padding and isinstance(batch, Mapping) and "attention_mask" in batch:
                self._masked += batch["attention_mask"].sum()
            elif self.kind is TokenCount.non_padding and self.padding is not None:
                self._masked += ids.ne(self.padding).sum()
            else:
                self._here += ids.numel()

    def total(self) -> int:
        """Tokens of the whole run so far (collective)."""
        self.seen += distributed.all_sum(self._here + int(self._masked))
        self._here = 0
        self._masked.zero_()
        return self.seen

    def restore(self, seen: int) -> None:
        """Continue from a checkpoint's number."""
        self.seen = self.resumed = seen
        self._here = 0
        self._masked.zero_()
