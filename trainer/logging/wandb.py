"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.logging import Wandb as WandbNode
from ..state import RunInfo
from .names import tracker_names
from .reporter import Reporter

if TYPE_CHECKING:
    import wandb


class Wandb(Reporter):
    """One W&B run per run, with the manifest's run_id as its id, so a resumed run continues it.

    Metrics have the Trainer's names over `train/global_step`. No source code is uploaded (the manifest has the commit
    and the patch), no output is captured, and all local files are in the run's directory.
    """

    def __init__(self, node: WandbNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        with _cache(run.directory / "wandb"):
            self._run = self._init(run)
        self._run.define_metric("train/global_step")
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)

    def log(self, record: dict[str, Any]) -> None:
        self._run.log({**tracker_names(record), "train/global_step": record["step"]})

    def finish(self, status: str) -> None:
        if status == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if status == "completed" else 1)

    def _init(self, run: RunInfo) -> wandb.Run:
        import wandb

        node = self._node
        settings = wandb.Settings(console="off", save_code=False, disable_git=True, quiet=True)
        settings.mode = str(node.mode) if node.mode else os.environ.get("WANDB_MODE", "online")  # type: ignore[assignment]
        if settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise PermissionError(
                "no W&B API key: run `wandb login`, set WANDB_API_KEY, or keep the run on this machine with "
                "logging.reporters.wandb.mode=offline"
            )
        return wandb.init(
            project=node.project,
            entity=node.entity,
            name=node.name or run.run_name,
            group=node.group,
            tags=node.tags,
            notes=node.notes,
            config=run.config,
            dir=run.directory,
            id=run.run_id,
            resume="allow",
            settings=settings,
        )


@contextmanager
def _cache(directory: Path) -> Iterator[None]:
    """Set WANDB_CACHE_DIR, below which wandb's service writes its logs as it starts; its default is the user's home."""
    before = os.environ.get("WANDB_CACHE_DIR")
    os.environ["WANDB_CACHE_DIR"] = before or str(directory / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_CACHE_DIR"]
