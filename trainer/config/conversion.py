"""From the composed config to the typed tree."""

from __future__ import annotations

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..errors import Problem
from ..schema import Config
from ..schema.tree import slots
from . import nodes
from .draft import Draft
from .examine import flat, unresolved


def convert(draft: Draft) -> Config | None:
    """The typed tree, or None with problems that say why. With empty slots, the rest can still be checked."""
    try:
        return to_config(draft.cfg)
    except Exception as error:  # a resolver may raise anything
        found = list(unresolved(draft.cfg, draft.repo))
        draft.problems += [problem for problem in found if not draft.is_refused(problem.key)]
        if not draft.problems:
            key = str(getattr(error, "full_key", None) or "config")
            draft.problems.append(Problem(key=key, what=flat(error)))
    empty = [problem.key for problem in found if problem.key in slots()]
    draft.wrong += empty
    if len(empty) < len(found):
        return None
    for key in empty:
        OmegaConf.update(draft.cfg, key, None)
    return to_config(draft.cfg)


def to_config(cfg: DictConfig) -> Config:
    """The typed tree of a composed config, every interpolation resolved."""
    found = {str(key): nodes.child(cfg, key) for key in cfg if key != "hydra"}
    plain = {k: OmegaConf.to_object(n) if isinstance(n, DictConfig | ListConfig) else cfg[k] for k, n in found.items()}
    return Config(**plain)  # type: ignore[arg-type]
