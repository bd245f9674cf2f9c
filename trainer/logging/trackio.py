"""Trackio."""

from __future__ import annotations

from typing import Any

from ..schema.trackers import Trackio as TrackioNode
from ..state import RunInfo
from .names import tracker_names
from .reporter import Reporter


class Trackio(Reporter):
    """Metrics under the Trainer's names over `train/global_step`. A run of the same name in the project is continued.

    Unlike Hugging Face's callback it logs the end's summary too (train/train_loss, train/train_runtime ...).
    """

    def __init__(self, node: TrackioNode) -> None:
        self._node = node

    def start(self, run: RunInfo) -> None:
        import trackio

        node = self._node
        if node.trackio_space_id:
            from huggingface_hub import get_token

            if get_token() is None:
                raise PermissionError(
                    "no Hugging Face token for the Space: set HF_TOKEN, run `hf auth login`, or keep the run on this "
                    "machine with logging.reporters.trackio.trackio_space_id=null"
                )
        self._run = trackio.init(
            project=node.project,
            name=node.name or run.run_name,
            space_id=node.trackio_space_id,
            bucket_id=node.trackio_bucket_id,
            private=node.private,
            resume="allow",
            config=run.config,
            embed=False,
        )

    def log(self, record: dict[str, Any]) -> None:
        self._run.log({**tracker_names(record), "train/global_step": record["step"]}, step=record["step"])

    def finish(self, status: str) -> None:
        import trackio

        node = self._node
        self._run.finish()
        if status == "completed" and node.trackio_static_space_id:
            trackio.freeze(
                space_id=node.trackio_space_id,
                project=node.project,
                new_space_id=node.trackio_static_space_id,
                private=node.private,
            )
