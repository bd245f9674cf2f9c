"""Where each value of the config came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ..errors import DEFAULT, Problem


class Origins:
    """Full key of a leaf -> `command line`, `FILE:LINE` or `default`."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._typed: dict[str, str] = {}
        """Values of the command line, as they were typed."""
        self._chosen: dict[str, str] = {}
        """Where the options that fill slots and sections were chosen."""

    def __getitem__(self, key: str) -> str:
        """The origin of ``key``: its own, that of the choice that filled it, that of the list or mapping it was given
        in, or that of a key inside it. A group, `hydra/launcher`, has that of the choice which filled it."""
        whole = key = key if key in self._of else key.replace("/", ".")
        if key not in self._of and key in self._chosen:
            return self._chosen[key]
        while key:
            if key in self._of:
                return self._of[key]
            key = key.rpartition(".")[0]
        inside = [origin for k, origin in self._of.items() if k.startswith(whole + ".")]
        return inside[-1] if inside else DEFAULT

    def set(self, key: str, value: Any, origin: str, typed: str | None = None) -> None:
        """Note that ``key`` got ``value``; a mapping's keys are noted one by one."""
        self._typed.pop(key, None)
        if typed is not None:
            self._typed[key] = typed
        key = key.replace("[", ".").replace("]", "")
        if isinstance(value, dict) and value:
            for name, child in value.items():
                self.set(f"{key}.{name}", child, origin)
        else:
            self._of.pop(key, None)  # to the end: the newest comes last
            self._of[key] = origin

    def choose(self, key: str, origin: str | None) -> None:
        """Note where the option that fills the slot or section ``key`` was chosen, if that is known."""
        if origin is not None:
            self._chosen[key] = origin

    def forget(self, key: str, keep: Iterable[str] = ()) -> None:
        """Forget what is known of ``key`` and everything below it, except ``keep``."""
        keep = set(keep)
        self._chosen.pop(key, None)
        for known in [k for k in self._of if (k == key or k.startswith(key + ".")) and k not in keep]:
            del self._of[known]

    def fill(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems with their origin, and their value as it was typed."""
        return [
            p if p.origin else replace(p, origin=self[p.key], value=self._typed.get(p.key, p.value)) for p in problems
        ]
