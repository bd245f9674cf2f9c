"""A composition in progress: the config so far, where its values came from, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..errors import Problem
from .origins import Origins
from .sources import Repository

Choices = dict[str, str | None]
"""Group -> the option chosen."""


@dataclass(slots=True)
class Draft:
    """What the steps of a composition hand on to each other."""

    config_name: str
    mode: RunMode
    repo: Repository
    cfg: DictConfig = field(default_factory=lambda: OmegaConf.create({"hydra": {}}))
    origins: Origins = field(default_factory=Origins)
    problems: list[Problem] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Keys and groups whose override was refused: rules that look at them are not reported on top."""
    choices: Choices = field(default_factory=dict)

    def refuse(self, key: str, problem: Problem) -> None:
        """Report ``problem``, and withhold those that would follow from it."""
        self.problems.append(problem)
        self.wrong.append(key)

    def is_refused(self, key: str) -> bool:
        """Whether ``key``, something inside it or something around it was refused."""
        return any(key == w or key.startswith(w + ".") or w.startswith(key + ".") for w in self.wrong)
