"""A run's directory, opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..run import directory as run_directory

if TYPE_CHECKING:
    from torch import nn

    from ..schema import Config

CLOCK = ("step", "epoch", "time")
"""Keys of a record that say where the run stood; the others are metrics."""


class Run:
    """A run's directory: what was asked for, how it went, and the trained model.

    Everything is read when it is asked for, so a run that is still going on shows its newest numbers.

    Args:
        directory: a run's directory, such as ``outputs/2026-01-31/12-00-00``.

    Raises:
        FileNotFoundError: there is no run in this directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).expanduser().absolute()
        if not run_directory.read(self.directory):
            raise FileNotFoundError(f"{directory} holds no run: there is no {run_directory.MANIFEST} in it")

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, status={self.status!r})"

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json: code, machine, versions, seed, status, result."""
        return run_directory.read(self.directory)

    @property
    def status(self) -> str:
        """`queued`, `running`, `completed`, `failed`, `preempted` or `stopped`."""
        return str(self.manifest["status"])

    @property
    def config(self) -> Config:
        """The composed config as the run had it, secrets masked.

        Raises:
            ConfigError: an edited file, or one of a release with other fields.
        """
        from ..config.restore import restore

        return restore(self.directory / "config.yaml")

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, in the order of the steps."""
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may still be on its way

    @property
    def metrics(self) -> dict[str, Any]:
        """The last value of every metric: `loss`, `eval_loss`, `train_runtime` ..."""
        last: dict[str, Any] = {}
        for record in self.history:
            last |= {name: value for name, value in record.items() if name not in CLOCK}
        return last

    @property
    def best(self) -> dict[str, Any] | None:
        """`metric`, `value` and `step` of the best evaluation; None when no evaluation was ranked."""
        result: Mapping[str, Any] = self.manifest.get("result") or {}
        return result.get("best")

    def model(self, model: nn.Module | None = None) -> nn.Module:
        """The model with the weights of `model/` (the final ones, or the best), in evaluation mode, on the CPU.

        Args:
            model: the module that takes the weights. Default: a new one, built as the config says.

        Raises:
            FileNotFoundError: the run has not written `model/` yet.
            ValueError: the config's model was an object passed from Python: pass one again.
        """
        from ..build.build import build
        from ..checkpoint.export import load_weights

        weights = self.directory / "model"
        if not weights.is_dir():
            raise FileNotFoundError(f"{self.directory} has no model/: the run is {self.status}")
        built: nn.Module = build(self.config.model) if model is None else model
        load_weights(built, weights)
        return built.eval()
