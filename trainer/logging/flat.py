"""A config as one level of names, for trackers that take nothing deeper."""

from __future__ import annotations

from typing import Any


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """{"optim": {"learning_rate": 1}} -> {"optim.learning_rate": 1}; lists stay whole, empty mappings vanish."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v for key, child in node.items() for k, v in flatten(child, f"{prefix}.{key}" if prefix else key).items()
    }
