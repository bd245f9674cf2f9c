"""Which directory a run gets: a new one, the one the user names, or that of the run it resumes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, Problem
from ..schema import Config
from . import directory as run_directory
from . import drift

if TYPE_CHECKING:
    from ..config.composer import Composition

AUTO = "auto"


def claim(composition: Composition, config: Config) -> tuple[Path, bool]:
    """The run's directory (created, and claimed by its manifest), and whether it already held this run.

    Raises:
        ConfigError: the directory holds another run, or cannot be made, or the config differs from the checkpoint's in
            a way that checkpoint.allow_drift does not name.
    """
    path = Path(composition.cfg.hydra.run.dir).absolute()
    key = "hydra.run.dir" if _given(composition, "hydra.run.dir") else "run.output_dir"
    given = _given(composition, key)
    requested = config.checkpoint.resume_from_checkpoint
    if given:
        resumable: Path | None = path
    elif requested is None:
        resumable = None
    elif config.run.do_train:
        resumable = _newest_unfinished(config, _root(path)) if requested == AUTO else _run_of(requested)
    else:  # a new directory for what the weights of another run give
        resumable = None
        if requested == AUTO:
            config.checkpoint.resume_from_checkpoint = _trained(composition, config, _root(path))
    if resumable is None or not (resumable / run_directory.MANIFEST).exists():
        _check_drift(composition, config, None)
        return _make(composition, path, key, exact=given), False
    if requested is None:
        fix = "checkpoint.resume_from_checkpoint=auto (resumes it), or another directory"
        raise ConfigError([_problem(composition, key, path, "holds a run already", fix)])
    manifest = run_directory.read(resumable)
    if run_directory.is_alive(manifest):
        what = f"holds a run that is running now: process {manifest['process']['pid']} on {manifest['host']}"
        raise ConfigError([_problem(composition, key, resumable, what)])
    _check_drift(composition, config, resumable)
    return resumable.absolute(), True


def claim_exactly(composition: Composition, config: Config, path: Path) -> tuple[Path, bool]:
    """The same for a trial of a sweep, in the directory ``path``.

    Raises:
        ConfigError: the directory holds another run, or cannot be made.
    """
    if config.checkpoint.resume_from_checkpoint is not None and (path / run_directory.MANIFEST).exists():
        _check_drift(composition, config, path)
        return path, True
    _check_drift(composition, config, None)
    return _make(composition, path, "hydra.sweep.subdir", exact=True), False


def _check_drift(composition: Composition, config: Config, run: Path | None) -> None:
    """Compare the config with that of the checkpoint which it resumes from, in ``run`` if that is the run's own."""
    requested = config.checkpoint.resume_from_checkpoint
    if requested is None or not config.run.do_train:  # an evaluation takes the weights alone
        return
    if requested == AUTO:
        drift.check(composition, config, None if run is None else drift.newest_checkpoint(run), run)
    else:
        drift.check(composition, config, Path(requested).expanduser(), _run_of(requested))


def _make(composition: Composition, path: Path, key: str, *, exact: bool) -> Path:
    try:
        return run_directory.create(path, exact=exact)
    except FileExistsError:
        what, fix = "holds a run already, or is a file", "checkpoint.resume_from_checkpoint=auto, or another directory"
        raise ConfigError([_problem(composition, key, path, what, fix)]) from None
    except OSError as error:
        raise ConfigError([_problem(composition, key, path, f"cannot be made: {error.strerror}")]) from None


def _problem(composition: Composition, key: str, path: Path, what: str, fix: str | None = None) -> Problem:
    return Problem(key=key, value=str(path), origin=composition.origins[key], what=what, fix=fix)


def _given(composition: Composition, key: str) -> bool:
    """Whether the user set the key: its value is not from the schema or from our config.yaml."""
    from ..config.files import shown
    from ..config.sources import conf_directory

    origin = composition.origins[key]
    return origin != "default" and not origin.startswith(shown(conf_directory() / "config.yaml"))


def _newest_unfinished(config: Config, root: Path) -> Path | None:
    found = run_directory.newest_unfinished(root, config, config.checkpoint.allow_drift)
    if found is None:
        print(f"no unfinished run with this config under {root}: starting afresh", file=sys.stderr)
    return found


def _trained(composition: Composition, config: Config, root: Path) -> str:
    """The run whose weights to evaluate or predict with: the newest that trained with this config."""
    found = run_directory.newest(root, replace(config, run=replace(config.run, do_train=True)))
    if found is None:
        what, fix = f"there is no run with this config under {root}", "checkpoint.resume_from_checkpoint=PATH"
        raise ConfigError([_problem(composition, "checkpoint.resume_from_checkpoint", Path(AUTO), what, fix)])
    print(f"using the weights of {found}", file=sys.stderr)
    return str(found)


def _root(path: Path) -> Path:
    """`outputs` for `outputs/<date>/<time>`."""
    return path.parents[1]


def _run_of(checkpoint: str) -> Path | None:
    """The run whose `checkpoints/` holds the checkpoint, if it is in one."""
    run = Path(checkpoint).expanduser().absolute().parents[1]
    return run if (run / run_directory.MANIFEST).exists() else None
