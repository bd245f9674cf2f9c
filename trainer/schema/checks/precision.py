"""Rules of `precision`: one format at a time."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from .. import parallel
from ..config import Config
from .sentences import excludes, wrong


def formats(config: Config) -> Iterator[Problem]:
    """Training has one 16-bit format."""
    if config.precision.bf16 and config.precision.fp16:
        yield excludes("precision.bf16", True, "precision.fp16=true", fix="precision=bf16")


def full_eval(config: Config) -> Iterator[Problem]:
    """Evaluation has one format, and whole weights to cast."""
    node = config.precision
    if node.bf16_full_eval and node.fp16_full_eval:
        other, fix = "precision.fp16_full_eval=true", "precision.fp16_full_eval=false"
        yield excludes("precision.bf16_full_eval", True, other, fix=fix)
        return
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(node, name) and isinstance(config.parallel, parallel.FSDP | parallel.DeepSpeed):
            what = "cannot cast weights that are sharded over the ranks"
            yield wrong(f"precision.{name}", True, what, fix="parallel=ddp", related=("parallel",))


RULES = (formats, full_eval)
