"""What the trackers call a record's metrics."""

from __future__ import annotations

from typing import Any


def tracker_names(record: dict[str, Any]) -> dict[str, int | float]:
    """The numbers of a record under the Trainer's names for trackers: eval_loss -> eval/loss, loss -> train/loss."""
    numbers = {key: value for key, value in record.items() if isinstance(value, int | float) and key not in _PLACE}
    return {_name(key): value for key, value in numbers.items()}


_PLACE = ("step", "time")


def _name(key: str) -> str:
    for prefix in ("eval", "test"):
        if key.startswith(f"{prefix}_"):
            return f"{prefix}/{key.removeprefix(f'{prefix}_')}"
    return f"train/{key}"
