"""Reads a config file defensively: bounded, acyclic, and with the line of every key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import Problem
from .hydra import yaml_loader

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
"""Nodes after aliases are expanded: ten lines of YAML can name 10^9."""
MAX_DEPTH = 50


@dataclass(slots=True)
class YamlFile:
    """A file's content, and where each of its values stands."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)
    """Line of each leaf (scalar, list, empty mapping), by its keys."""
    choices: list[tuple[str, str, int]] = field(default_factory=list)
    """(group, option, line) of each entry of the defaults list."""
    header: str = ""

    @property
    def name(self) -> str:
        """The path as error lines show it: relative to the working directory when below it."""
        return shown(self.path)


def shown(path: Path | str) -> str:
    """``path`` relative to the working directory when it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


class BadYaml(Exception):
    """A file that cannot be read as a configuration."""

    def __init__(self, path: Path, line: int | None, what: str, fix: str | None = None) -> None:
        where = f"{shown(path)}:{line}" if line else shown(path)
        self.problem = Problem(key=path.name, origin=where, what=what, fix=fix)
        super().__init__(str(self.problem))


def read(path: Path) -> YamlFile:
    """Parse one file.

    Raises:
        BadYaml: not UTF-8, not YAML, too large, cyclic, or not a mapping.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadYaml(path, None, f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise BadYaml(path, None, f"is {len(raw)} bytes long; a config file may have {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")  # without the byte order mark that Windows editors write
    except UnicodeDecodeError as error:
        raise BadYaml(path, raw.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from None
    file = YamlFile(path, header=text[:512])
    loader = None
    try:
        loader = yaml_loader()(text)
        node = loader.get_single_node()
        if node is None:
            return file
        if not isinstance(node, yaml.MappingNode):
            raise BadYaml(path, node.start_mark.line + 1, "must hold a mapping (key: value)")
        _bound(node, path)
        _record(node, (), file)
        content = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        raise BadYaml(path, mark.line + 1 if mark else None, _describe(error)) from None
    except RecursionError:
        raise BadYaml(path, None, f"is nested deeper than {MAX_DEPTH} levels") from None
    except (ValueError, TypeError) as error:  # raised by yaml's constructors for values such as 0x_ or unhashable keys
        raise BadYaml(path, None, f"holds a value that cannot be read: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
    file.content = content
    return file


def _describe(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    if "'\\t'" in problem:
        return "is indented with a tab; YAML takes spaces only"
    if "duplicate key" in problem:
        return f"{problem.replace('found ', 'has the ')} twice"
    if "could not determine a constructor" in problem:
        return f"{problem}: tags that build Python objects are refused"
    return f"is not valid YAML: {problem}"


def _bound(root: yaml.Node, path: Path) -> None:
    """Refuse cycles, alias bombs and deep nesting before anything expands. Sizes are cached: aliases share nodes."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        line = node.start_mark.line + 1
        if id(node) in sizes:
            if sizes[id(node)] == 0:
                raise BadYaml(path, line, "contains itself (an alias inside its own anchor)")
            return sizes[id(node)]
        if depth > MAX_DEPTH:
            raise BadYaml(path, line, f"is nested deeper than {MAX_DEPTH} levels")
        sizes[id(node)] = 0
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        total = 1 + sum(size(child, depth + 1) for child in children)
        if total > MAX_NODES:
            raise BadYaml(path, line, f"expands to more than {MAX_NODES} values through its aliases")
        sizes[id(node)] = total
        return total

    size(root, 0)


def _record(node: yaml.MappingNode, prefix: tuple[str, ...], file: YamlFile) -> None:
    for key_node, value in node.value:
        key = (*prefix, str(key_node.value))
        if key == ("defaults",):
            _record_choices(value, file)
        elif isinstance(value, yaml.MappingNode) and value.value:
            _record(value, key, file)
        else:
            file.lines[key] = key_node.start_mark.line + 1


def _record_choices(node: yaml.Node, file: YamlFile) -> None:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    for item in items:
        line = item.start_mark.line + 1
        if isinstance(item, yaml.ScalarNode):
            file.choices.append(("", str(item.value), line))
        elif isinstance(item, yaml.MappingNode):
            for group, option in item.value:
                options = option.value if isinstance(option, yaml.SequenceNode) else [option]
                for one in options:
                    file.choices.append((str(group.value), str(one.value), one.start_mark.line + 1))
