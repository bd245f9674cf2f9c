"""A run that is ready to start, as it travels from the command line to a child process, a rank or a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..schema import Config


@dataclass(slots=True)
class Prepared:
    """A checked config and the directory claimed for it; picklable."""

    config: Config
    directory: Path
    overrides: list[str]
    argv: list[str]
    """The whole command line, for the manifest."""
    resumed: bool = False
    """The directory already held this run."""
    chdir: bool = False
    """hydra.job.chdir: the working directory is the run's."""
    environment: dict[str, str] = field(default_factory=dict)
    """hydra.job.env_set: variables to set before the run starts."""
    requeued: bool = False
    """A cluster has started this run before: it resumes from its newest checkpoint."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Further fields of the manifest."""
