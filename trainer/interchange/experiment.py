"""An experiment file of what differs from our defaults, and whether it composes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..config.composer import compose
from ..errors import Problem, show
from ..schema.tree import hints

Config = dict[str, Any]


@dataclass(slots=True)
class Experiment:
    """What an experiment file will say, and what it cannot."""

    choices: dict[str, str | list[str]] = field(default_factory=dict)
    """Group -> option; groups that stay at their default may be missing."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Full key -> value."""
    remarks: list[str] = field(default_factory=list)


def to_yaml(experiment: Experiment, title: str) -> str:
    """The file's text. Keys that the chosen options do not have are remarked upon and left out."""
    plain = compose(["experiment=null"]).cfg
    usual = {
        **plain.hydra.runtime.choices,
        "logging": list(plain.logging.reporters),
        "callbacks": list(plain.callbacks),
    }
    chosen = {group: option for group, option in experiment.choices.items() if option != usual.get(group)}
    base = compose(["experiment=null", *(f"{g}={show(o)}" for g, o in chosen.items())]).cfg if chosen else plain
    tree: Config = {}
    for key in sorted(experiment.settings, key=_order):
        value = experiment.settings[key]
        try:
            current = OmegaConf.select(base, key, throw_on_missing=False, throw_on_resolution_failure=False)
        except Exception:
            current = ...
        parent = OmegaConf.select(base, key.rpartition(".")[0])
        if not isinstance(parent, DictConfig) or key.split(".")[-1] not in parent:
            experiment.remarks.append(f"{key}={show(value)}: the chosen option has no such field")
        elif not _same(current, value):
            _put(tree, key.split("."), value)
    lines = ["# @package _global_", f"# {title}"]
    if chosen:
        lines += [
            "defaults:",
            *(f"  - override /{g}: {o if isinstance(o, str) else show(o)}" for g, o in chosen.items()),
        ]
    if tree:
        lines += [""] * bool(chosen) + [yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120).rstrip()]
    return "\n".join([*lines, *(["{}"] if not (chosen or tree) else []), ""])


def _same(current: Any, value: Any) -> bool:
    if isinstance(current, DictConfig | ListConfig):
        current = OmegaConf.to_container(current, resolve=False)
    if isinstance(current, bool) or isinstance(value, bool):
        return current is value
    return bool(current == value)


def _order(key: str) -> tuple[int, ...]:
    """Sections in the tree's order, the keys of one as they came."""
    from ..schema import Config as Root

    return (list(hints(Root)).index(key.split(".")[0]),)


def _put(tree: Config, keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def problems(text: str, name: str) -> list[Problem]:
    """What is wrong with a run of this experiment; ``name`` stands for the file."""
    with tempfile.TemporaryDirectory(prefix="imported-") as directory:
        file = Path(directory, "experiment", f"{Path(directory).name}.yaml")
        file.parent.mkdir()
        file.write_text(text, encoding="utf-8")
        found = compose([f"experiment={file.stem}"], config_dir=directory).problems
    return [
        replace(p, origin=name + (p.origin or "").rpartition(".yaml")[2]) if _from(p, directory) else p for p in found
    ]


def _from(problem: Problem, directory: str) -> bool:
    return Path(directory).name in (problem.origin or "")
