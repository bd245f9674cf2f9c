"""English text that every Python installation has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..schema import data as schema


def reference_text() -> str:
    """The standard library's language reference, as `help()` shows it."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


class TextBlocks(Dataset[dict[str, Tensor]]):
    """The text's UTF-8 bytes in blocks without overlap: `input_ids` (block_size,), int64, and the same as `labels`."""

    draws_random = False

    def __init__(self, node: schema.TextBlocks) -> None:
        data = torch.frombuffer(bytearray(reference_text().encode()), dtype=torch.uint8).long()
        border = len(data) * 9 // 10
        try:
            data = {"train": data[:border], "eval": data[border:]}[node.split]
        except KeyError:
            raise ValueError(f"split={node.split}: allowed: train, eval") from None
        count = len(data) // node.block_size
        if not count:
            raise ValueError(f"block_size={node.block_size} exceeds the {len(data)} bytes of the {node.split} text")
        self.blocks = data[: count * node.block_size].view(count, node.block_size).clone()

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A finished batch."""
        blocks = self.blocks[torch.as_tensor(indices)]
        return {"input_ids": blocks, "labels": blocks}
