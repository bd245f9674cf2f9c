"""Whether a config may resume from a checkpoint: every key that differs from the checkpoint's config, judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, Problem, show
from ..schema import Config
from ..schema.drift import Change, Values, changes, covers, decisive, option_of
from ..schema.fields import Drift
from ..schema.tree import slots
from ..secrets import mask
from . import directory as run_directory

if TYPE_CHECKING:
    from ..config.composer import Composition

ALLOW = "checkpoint.allow_drift"
SAVED = "config"
"""The checkpoint's name, in state.json, for what its config decided."""


def check(composition: Composition, config: Config, checkpoint: Path | None, run: Path | None) -> None:
    """Compare a config with the one that a checkpoint was written with.

    Args:
        composition: where the config comes from.
        config: of the run that resumes.
        checkpoint: what it resumes from. None: nothing, and there is nothing to compare.
        run: the checkpoint's run, whose config.yaml stands in for what a checkpoint of an older release lacks.

    Raises:
        ConfigError: a key differs that may not, or not without checkpoint.allow_drift.
    """
    before = None if checkpoint is None else saved_values(checkpoint, run)
    if before is None:
        return
    allowed = config.checkpoint.allow_drift
    found = changes(before, mask(run_directory.plain(config)))
    refused = [c for c in found if c.drift is Drift.incompatible or not covers(allowed, c.key)]
    if refused:
        decisions = [*allowed, *(c.key for c in refused if c.drift is Drift.decision)]
        raise ConfigError([_problem(composition, change, decisions) for change in refused])


def newest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run that looks whole; the ranks verify it before they load it."""
    steps = {path.name.rpartition("-")[2]: path for path in (run / "checkpoints").glob("checkpoint-*")}
    for step in sorted((step for step in steps if step.isdecimal()), key=int, reverse=True):
        if (steps[step] / "manifest.json").exists():
            return steps[step]
    return None


def saved_values(checkpoint: Path, run: Path | None) -> Values | None:
    """What decided the training when the checkpoint was written; None where nobody wrote it down."""
    try:
        values = json.loads((checkpoint / "state.json").read_bytes()).get(SAVED)
    except (OSError, ValueError, AttributeError):  # damaged: the ranks say so, and take the checkpoint before it
        values = None
    if isinstance(values, dict):
        return values
    config = None if run is None else run_directory.saved_config(run)
    return None if config is None else decisive(config)


def _problem(composition: Composition, change: Change, decisions: list[str]) -> Problem:
    key, what = change.key, "the checkpoint was written with "
    now, before = _as_typed(key, change.now), _as_typed(key, change.before)
    if change.drift is Drift.incompatible:
        what += f"{show(before)}, whose state does not fit"
        fix = f"{key}={show(before)}, or a run of its own"
    else:
        what += show(before)
        fix = f"{ALLOW}=[{','.join(dict.fromkeys(decisions))}]"
    return Problem(key=key, value=now, origin=composition.origins[key], what=what, fix=fix)


def _as_typed(key: str, value: Any) -> Any:
    """A value as the command line has it: of a slot's class, the option."""
    return option_of(key, value) or value if key in slots() and isinstance(value, str) else value
