"""Rules of `model`: sizes of the shipped models that must fit each other and the data."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import model
from ..config import Config
from ..data import Digits
from .sentences import needs, wrong

SIZES = "model.sizes=[64,128,10]"


def gpt(config: Config) -> Iterator[Problem]:
    """Heads divide the width, and the blocks of text fit into the context."""
    node = config.model
    if not isinstance(node, model.GPT):
        return
    if node.n_head > 0 and node.n_embd % node.n_head:
        fix = f"model.n_embd={max(node.n_head, node.n_embd // node.n_head * node.n_head)}"
        yield wrong("model.n_embd", node.n_embd, f"is not divisible by model.n_head={node.n_head}", fix=fix)
    for name in ("train_dataset", "eval_dataset"):
        block = getattr(getattr(config.data, name), "block_size", None)
        if isinstance(block, int) and block > node.block_size:
            what, fix = f"is longer than model.block_size={node.block_size}", f"model.block_size={block}"
            yield wrong(f"data.{name}.block_size", block, what, fix=fix)


def mlp(config: Config) -> Iterator[Problem]:
    """There are two widths or more, and the digits fit them."""
    node = config.model
    if not isinstance(node, model.MLP):
        return
    if len(node.sizes) < 2 or min(node.sizes) < 1:
        yield needs("model.sizes", node.sizes, "at least two widths, each at least 1", fix=SIZES)
    elif isinstance(config.data.train_dataset, Digits) and (node.sizes[0] != 64 or node.sizes[-1] < 10):
        what = "does not fit the digits: 64 pixels in, 10 classes out"
        yield wrong("model.sizes", node.sizes, what, fix=SIZES, related=("data",))


RULES = (gpt, mlp)
