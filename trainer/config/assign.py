"""Puts files' and overrides' values into the composed config: a closed schema, and the rule for replaced slots.

A slot whose `_target_` is replaced by another one becomes a plain mapping: the replaced option's own keys go, those set
together with the new target or after it stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, get_args

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf, flag_override, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import COMMAND_LINE, Problem, closest, show
from ..schema.tree import allowed, hints, leaves, options_with, slot_of
from . import nodes
from .files import YamlFile
from .hydra import split_key
from .origins import Origins

Refuse = Callable[[str, Problem], None]
EVAL_DATASET = "data.eval_dataset"
OPTIMIZER_KEYS = ("learning_rate", "weight_decay")
"""Kept when `optim._target_` is replaced: every optimizer has them."""


class Assigner:
    """Assigns to one config; what cannot be assigned is refused with a problem."""

    def __init__(self, cfg: DictConfig, origins: Origins, refuse: Refuse, chosen: Collection[str] = ()) -> None:
        self.cfg, self.origins, self.refuse = cfg, origins, refuse
        self.chosen = chosen
        """Groups whose option the command line chose."""
        self.placed: set[int] = set()

    def merge(self, content: DictConfig, package: str, file: YamlFile | None) -> None:
        """Merge one file (or, without a file, one option of the schema) at its package."""
        if file is None:
            self._merge_option(content, package)
            return
        prefix = package + "." if package else ""
        for keys in file.lines:
            slot = prefix + ".".join(keys[:-1])
            self._open_for_names(prefix + ".".join(keys), None)
            if keys[-1] == "_target_" and slot_of(slot) == slot.rstrip("."):
                self._replace(slot.rstrip("."), OmegaConf.select(content, ".".join(keys)))
        dropped = set()
        try:
            if content:
                node = nodes.select(self.cfg, package) if package else self.cfg
                if nodes.has_value(node):
                    node.merge_with(content)
                else:
                    OmegaConf.update(self.cfg, package, content, merge=True, force_add=True)
        except OmegaConfBaseException:
            for key, value in _leaves(content, package):
                line = file.lines.get(tuple(key.removeprefix(prefix).split(".")))
                origin = f"{file.name}:{line}" if line else file.name
                problem = self._unknown(key, value, origin)
                if problem is not None and slot_of(key) in self.chosen and key in leaves():
                    # a recipe's setting for the option that the command line has replaced by another one
                    dropped.add(key)
                elif problem is not None or (problem := self._update(key, value, origin)):
                    self.refuse(key, problem)
        self._check_values(content, package, file)
        for keys, line in file.lines.items():
            if (key := prefix + ".".join(keys)) not in dropped:
                self.origins.set(key, ..., f"{file.name}:{line}")

    def _check_values(self, content: DictConfig, package: str, file: YamlFile) -> None:
        """A `???` of a file takes the place of a default; a bare `no` is not a text."""
        prefix = package + "." if package else ""
        for key, value in _leaves(content, package) if content else ():
            name, cls = key.rpartition(".")[2], leaves().get(key)
            if value == "???" and not key.startswith("hydra"):
                OmegaConf.update(self.cfg, key, "???", merge=False)
            elif isinstance(value, bool) and cls is not None and str in (hint := hints(cls)[name], *get_args(hint)):
                line = file.lines.get(tuple(key.removeprefix(prefix).split(".")))
                what, origin = f"an unquoted yes, no, on or off is YAML's {show(value)}", f"{file.name}:{line}"
                fix = f'{name}: "{"yes" if value else "no"}"'
                self.refuse(key, Problem(key=key, value=value, origin=origin, what=what, fix=fix))

    def _merge_option(self, content: DictConfig, package: str) -> None:
        """An option of a slot replaces whatever was there; other typed configs (Hydra's) are merged."""
        if package:
            self.origins.forget(package)
        # one option may fill two slots: the second time it must be a copy
        with flag_override(self.cfg, "no_deepcopy_set_nodes", id(content) not in self.placed):
            OmegaConf.update(self.cfg, package, content, merge=slot_of(package) != package, force_add=True)
        self.placed.add(id(content))

    def override(self, override: Override) -> None:
        """Apply one value of the command line (not Hydra's own settings)."""
        key, line = override.key_or_group, str(override.input_line)
        value, typed = override.value(), line.partition("=")[2]
        if override.package is not None:
            return self.refuse(key, Problem(key=line, origin=COMMAND_LINE, what=f"there is no group {key}"))
        if self.replaces_slot(key, value):
            slot = key.removesuffix("._target_")
            self._replace(slot, str(value["_target_"] if isinstance(value, dict) else value))
        self._open_for_names(key, value)
        problem = self._unknown(key, value if isinstance(value, dict) else typed, COMMAND_LINE)
        if problem is None and override.is_delete():
            problem = self._delete(key, line)
        elif problem is None:
            if (
                override.is_add()
                and self._is_typed(key)
                and OmegaConf.select(self.cfg, key, throw_on_missing=False) is not None
            ):
                problem = Problem(key=line, origin=COMMAND_LINE, what=f"{key} exists already", fix=line.lstrip("+"))
            else:
                problem = self._update(key, value, COMMAND_LINE)
        if problem is not None:
            return self.refuse(key, replace(problem, value=typed if problem.value is not ... else ...))
        self.origins.set(key, value, COMMAND_LINE, typed)
        if isinstance(value, dict):
            self.open_foreign()

    def open_foreign(self) -> None:
        """Let plain mappings (foreign slots, free dictionaries) take new keys without a `+`."""
        for node in _plain(self.cfg):
            OmegaConf.set_struct(node, False)

    def replaces_slot(self, key: str, value: Any) -> bool:
        """Whether this value gives a slot another `_target_`."""
        slot = key.removesuffix("._target_")
        target = value.get("_target_") if isinstance(value, dict) else value if slot != key else None
        return isinstance(target, str) and slot_of(slot) == slot

    def _replace(self, slot: str, target: str) -> None:
        """Apply the slot rule of the module's docstring; nothing happens when the target stays the same."""
        old = nodes.select(self.cfg, slot)
        keep: dict[str, Any] = {}
        if nodes.has_value(old):
            if old.get("_target_") == target:
                return
            keep = {k: old[k] for k in OPTIMIZER_KEYS if slot == "optim" and k in old}
        self.origins.forget(slot, [f"{slot}.{k}" for k in keep])
        plain = OmegaConf.create({"_target_": target, **keep}, flags={"struct": False})
        with open_dict(self.cfg):
            OmegaConf.update(self.cfg, slot, None, merge=False)
            OmegaConf.update(self.cfg, slot, plain, merge=False)
            if slot == "data.train_dataset" and self.origins["data.eval_dataset._target_"] == "default":
                # the evaluation set belongs to the data option whose training set has just been replaced
                OmegaConf.update(self.cfg, "data.eval_dataset", None, merge=False)
                self.origins.forget("data.eval_dataset")

    def _open_for_names(self, key: str, value: Any) -> None:
        """Named evaluation sets take the place of an option's single one."""
        node, rest = nodes.select(self.cfg, EVAL_DATASET), key.removeprefix(EVAL_DATASET).split(".")
        if not key.startswith(EVAL_DATASET) or not isinstance(node, DictConfig) or OmegaConf.get_type(node) is dict:
            return
        cls = OmegaConf.get_type(node)
        names = rest[1:2] if rest[2:] == ["_target_"] or isinstance(value, dict) else []
        if key == EVAL_DATASET and isinstance(value, dict) and "_target_" not in value:
            names = [name for name, one in value.items() if isinstance(one, dict) and "_target_" in one]
        if names and cls is not None and not any(name in hints(cls) for name in names):
            self.origins.forget(EVAL_DATASET)
            OmegaConf.update(self.cfg, EVAL_DATASET, None, merge=False)
            OmegaConf.update(self.cfg, EVAL_DATASET, OmegaConf.create({}, flags={"struct": False}), merge=False)

    def _unknown(self, key: str, value: Any, origin: str) -> Problem | None:
        """The problem of a key that the schema does not have."""
        node: Any = self.cfg
        parts = split_key(key)
        for i, part in enumerate(parts):
            if not nodes.has_value(node):
                prefix = ".".join(parts[:i])
                if node is None or isinstance(node, DictConfig | ListConfig) or slot_of(prefix) == prefix:
                    return None  # an empty slot, or a list's index
                return Problem(
                    key=key, value=value, origin=origin, what=f"{prefix} is a single value, it has no {part}"
                )
            cls = OmegaConf.get_type(node)
            if cls is not dict and cls is not None and part not in hints(cls):
                return self._unknown_key(key, ".".join(parts[: i + 1]), value, origin)
            node = nodes.child(node, part)
        return None

    def _unknown_key(self, key: str, missing: str, value: Any, origin: str) -> Problem:
        from ..schema import huggingface

        parent, _, leaf = missing.rpartition(".")
        what = f"{parent} has no {leaf}" if parent else f"there is no {leaf}"
        elsewhere = options_with(key)
        answer = None if elsewhere else huggingface.answer(key.split(".")[-1] if "." in key else key, value)
        if answer is not None:
            return Problem(key=key, value=value, origin=origin, what=answer.what or what, suggestion=answer.suggestion)
        known = [k for k, _ in _leaves(self.cfg, "") if not k.startswith("hydra.")]
        node = nodes.select(self.cfg, parent) if parent else self.cfg
        siblings = [str(k) for k in node if k not in ("hydra", "_target_")]
        if elsewhere:
            what = f"is read by {elsewhere}, which is not the chosen option"
            return Problem(key=key, value=value, origin=origin, what=what, allowed=", ".join(siblings))
        same_leaf = [k for k in [*known, *leaves()] if k.split(".")[-1] == key.split(".")[-1]]
        guess = same_leaf[0] if same_leaf else None
        if (
            guess is None
            and (sibling := huggingface.GPT2.get(leaf, leaf) if parent == "model" else leaf) not in siblings
        ):
            sibling = closest(leaf, siblings) or ""
        if guess is None and sibling:
            guess = ".".join(p for p in (parent, sibling, key[len(missing) + 1 :]) if p)
        if parent and not siblings:  # of a section that does not exist
            guess = guess or closest(key, known)
        if guess is None and (similar := closest(key.split(".")[-1], {k.split(".")[-1] for k in known})):
            guess = next(k for k in known if k.split(".")[-1] == similar)
        section = guess is not None and isinstance(nodes.select(self.cfg, guess), DictConfig)
        suggestion = guess if guess is None or (section and isinstance(value, dict)) else f"{guess}={show(value)}"
        return Problem(
            key=key,
            value=value,
            origin=origin,
            what=what,
            allowed=None if guess else ", ".join(siblings),
            suggestion=suggestion,
        )

    def _is_typed(self, key: str) -> bool:
        parent = nodes.select(self.cfg, key.rpartition(".")[0]) if "." in key else self.cfg
        return isinstance(parent, DictConfig) and OmegaConf.get_type(parent) is not dict

    def _update(self, key: str, value: Any, origin: str) -> Problem | None:
        try:
            OmegaConf.update(self.cfg, key, value, merge=True, force_add=not self._is_typed(key))
        except (OmegaConfBaseException, ValueError, TypeError, OverflowError) as error:
            return self._wrong_type(key, value, origin, error)
        return None

    def _delete(self, key: str, line: str) -> Problem | None:
        if self._is_typed(key):
            return Problem(
                key=line, origin=COMMAND_LINE, what="a key of the schema cannot be removed", fix=f"{key}=VALUE"
            )
        parent, _, name = key.rpartition(".")
        node = nodes.select(self.cfg, parent)
        if not isinstance(node, DictConfig) or name not in node:
            return Problem(key=line, origin=COMMAND_LINE, what="there is nothing to remove")
        with open_dict(node):
            del node[name]
        return None

    def _wrong_type(self, key: str, value: Any, origin: str, error: Exception) -> Problem:
        parent, _, name = key.rpartition(".")
        node = nodes.select(self.cfg, parent) if parent else self.cfg
        cls = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
        hint = hints(cls).get(name) if cls is not None and cls is not dict else None
        if hint is None:
            reason = str(error).splitlines()[0]
            return Problem(key=key, value=value, origin=origin, what=f"cannot be set: {reason}")
        words = allowed(hint)
        what, fix = "has the wrong type", None
        if isinstance(value, bool) and "no" in words.split(", ") and origin != COMMAND_LINE:
            what, fix = "an unquoted no or off is YAML's false", f'{name}: "no"'
        elif isinstance(value, float) and value.is_integer() and "whole number" in words:
            fix = f"{key}={int(value)}"
        elif isinstance(value, str) and (guess := closest(value, words.split(", "))):
            return Problem(key=key, value=value, origin=origin, what=what, allowed=words, suggestion=f"{key}={guess}")
        elif value is None:
            what = "needs a value"
        return Problem(key=key, value=value, origin=origin, what=what, allowed=words, fix=fix)


def _leaves(node: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    """Full keys and raw values below ``node``."""
    if not nodes.has_keys(node):
        return
    for name in node:
        child = nodes.child(node, name)
        key = f"{prefix}.{name!s}" if prefix else str(name)
        if nodes.has_keys(child) and len(child):
            yield from _leaves(child, key)
        elif isinstance(child, DictConfig | ListConfig) and not (nodes.is_none(child) or nodes.is_reference(child)):
            yield key, OmegaConf.to_container(child, resolve=False) if not nodes.is_missing(child) else "???"
        else:
            yield key, nodes.raw(child)


def _plain(node: DictConfig) -> Iterator[DictConfig]:
    """Mappings without a schema, at any depth, other than Hydra's."""
    for name in node if nodes.has_keys(node) else ():
        child = nodes.child(node, name)
        if isinstance(child, DictConfig) and name != "hydra":
            if OmegaConf.get_type(child) is dict:
                yield child
            yield from _plain(child)
