"""TrainingArguments on their way into our words: what is still to be said, and what has been."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ...config.files import read
from ...config.sources import conf_directory
from ...errors import show
from ...schema import OPTIONS
from ...schema import huggingface as hf
from ...schema.tree import choices_of
from ..experiment import Experiment

MASKED = "<HUB_TOKEN>"
"""What to_dict() writes in place of any token, None included: a sign that every value is there, defaults too."""


@cache
def options(group: str) -> dict[str, tuple[type | None, dict[str, Any]]]:
    """The options that come with the package: name -> (schema class, what the file sets)."""
    found = {}
    for path in sorted((conf_directory() / group).glob("*.yaml")):
        content = dict(read(path).content)
        schema = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
        places = {key: value for entry in schema for key, value in entry.items() if key.startswith("/schema/")}
        key, name = next(iter(places.items()), ("", None))
        if key.endswith(f"@{group}"):  # a file that sets other sections too
            content = content.get(group, {})
        found[path.stem] = (OPTIONS.get("reporters" if group == "logging" else group, {}).get(str(name)), content)
    return found


class Translation:
    """One set of arguments on its way."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.left = dict(values)
        """Names that nothing has been said about yet."""
        self.dump = self.left.get("hub_token") == MASKED or self.left.get("push_to_hub_token") == "<PUSH_TO_HUB_TOKEN>"
        self.result = Experiment()

    def take(self, name: str) -> Any:
        """The value of a name, which is thereby dealt with; the Trainer's default where it is not given."""
        return self.left.pop(name, hf.DEFAULTS.get(name))

    def set(self, key: str, value: Any) -> None:
        self.result.settings[key] = value

    def remark(self, name: str, value: Any, what: str) -> None:
        self.result.remarks.append(f"{name}={show(value)}: {what}")

    def mapping(self, name: str) -> dict[str, Any]:
        """A field that may be a mapping, JSON text or a JSON file's path."""
        value = self.take(name)
        if isinstance(value, str) and value:
            try:
                value = json.loads(value if value.lstrip().startswith("{") else Path(value).read_text())
            except (OSError, ValueError) as error:
                self.remark(name, value, f"is neither JSON nor a JSON file that can be read ({error})")
                return {}
        if value and not isinstance(value, dict):
            self.remark(name, value, "is not a mapping")
            return {}
        return dict(value or {})

    def enter(self, name: str, key: str, value: Any) -> None:
        """Set a key, unless it takes one of several words and this is none of them."""
        words = choices_of(key)
        wrong = [item for item in (value if isinstance(value, list) else [value]) if words and item not in words]
        if value is not None and wrong:
            self.remark(name, value, f"is not offered; {key} takes {', '.join(words)}")
        else:
            self.set(key, value)
