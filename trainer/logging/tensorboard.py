"""TensorBoard event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..schema.logging import TensorBoard as TensorBoardNode
from ..state import RunInfo
from .names import tracker_names
from .reporter import Reporter


class TensorBoard(Reporter):
    """Scalars under the Trainer's names (train/loss, eval/loss) and the config as text."""

    def __init__(self, node: TensorBoardNode) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("tensorboard is not installed: pip install tensorboard") from error
        self._writer_class = SummaryWriter
        self._log_dir = node.log_dir

    def start(self, run: RunInfo) -> None:
        # purge_step hides what a killed run wrote after the checkpoint that this one resumes from
        self._writer = self._writer_class(
            Path(self._log_dir) if self._log_dir else run.directory / "tensorboard",
            purge_step=run.resumed_step + 1 if run.resumed_step else None,
        )
        text = yaml.safe_dump(run.config, sort_keys=False)
        self._writer.add_text("config", f"```yaml\n{text}```", global_step=run.resumed_step)

    def log(self, record: dict[str, Any]) -> None:
        for name, value in tracker_names(record).items():
            self._writer.add_scalar(name, value, record["step"], walltime=record.get("time"))
        self._writer.flush()

    def finish(self, status: str) -> None:
        self._writer.close()
