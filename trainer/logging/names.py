"""Records and configs in the form that trackers take."""

from __future__ import annotations

from typing import Any

SUMMARY = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos")
"""The end's metrics, which Hugging Face's callbacks log as single values."""


def numbers(record: dict[str, Any]) -> dict[str, int | float]:
    """The metrics of a record that are numbers, without its `step` and `time`."""
    return {
        key: value for key, value in record.items() if isinstance(value, int | float) and key not in ("step", "time")
    }


def tracker_names(record: dict[str, Any]) -> dict[str, int | float]:
    """The numbers of a record under the names that the Trainer gives trackers: eval_loss -> eval/loss, loss ->
    train/loss."""
    return {_tracker_name(key): value for key, value in numbers(record).items()}


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """A config as one level of dotted keys: {"optim": {"learning_rate": 1}} -> {"optim.learning_rate": 1}.

    Lists stay whole; empty mappings are dropped.
    """
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v for key, child in node.items() for k, v in flatten(child, f"{prefix}.{key}" if prefix else key).items()
    }


def _tracker_name(key: str) -> str:
    for prefix in ("eval", "test"):
        if key.startswith(f"{prefix}_"):
            return f"{prefix}/{key.removeprefix(f'{prefix}_')}"
    return f"train/{key}"
