"""Which directory a run gets: a fresh one, the one it was told, or the one of the run it goes on with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError, Problem
from ..schema import Config
from . import directory as run_directory

if TYPE_CHECKING:
    from ..config.composer import Composition

AUTO = "auto"


def claim(composition: Composition, config: Config) -> tuple[Path, bool]:
    """The run's directory (made, and claimed by its manifest), and whether it held this run before.

    Raises:
        ConfigError: the directory holds another run, or cannot be made.
    """
    path = Path(composition.cfg.hydra.run.dir).absolute()
    key = "hydra.run.dir" if _given(composition, "hydra.run.dir") else "run.output_dir"
    given = _given(composition, key)
    wish = config.checkpoint.resume_from_checkpoint
    old = path if given else None
    if wish is not None and not given and not config.run.do_train:
        config.checkpoint.resume_from_checkpoint = _trained(composition, config, _root(path)) if wish == AUTO else wish
    elif wish is not None and not given:
        old = (
            run_directory.newest_unfinished(_root(path), run_directory.config_hash(config))
            if wish == AUTO
            else _run_of(wish)
        )
        if old is None and wish == AUTO:
            where = _root(path)
            print(f"no unfinished run with this config under {where}: starting afresh", file=sys.stderr)
    if old is not None and (old / run_directory.MANIFEST).exists():
        if wish is None:
            fix = "checkpoint.resume_from_checkpoint=auto (goes on in it), or another directory"
            raise ConfigError([_problem(composition, key, path, "holds a run already", fix)])
        manifest = run_directory.read(old)
        if run_directory.is_alive(manifest):
            what = f"holds a run that is running now: process {manifest['process']['pid']} on {manifest['host']}"
            raise ConfigError([_problem(composition, key, old, what)])
        return old.absolute(), True
    return _make(composition, path, key, exact=given), False


def claim_exactly(composition: Composition, config: Config, path: Path) -> tuple[Path, bool]:
    """A sweep's trial: this directory, fresh, or with resume_from_checkpoint the run that is in it."""
    if config.checkpoint.resume_from_checkpoint is not None and (path / run_directory.MANIFEST).exists():
        return path, True
    return _make(composition, path, "hydra.sweep.subdir", exact=True), False


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
    """Whether the user chose it, rather than our config.yaml or the schema."""
    from ..config.files import shown
    from ..config.sources import conf_directory

    origin = composition.origins[key]
    return origin != "default" and not origin.startswith(shown(conf_directory() / "config.yaml"))


def _trained(composition: Composition, config: Config, root: Path) -> str:
    """The run whose weights are evaluated or predicted with: the newest with this config, but for what is asked now."""
    trained = replace(config, run=replace(config.run, do_train=True))
    found = run_directory.newest(root, run_directory.config_hash(trained))
    if found is None:
        what, fix = f"there is no run with this config under {root}", "checkpoint.resume_from_checkpoint=PATH"
        raise ConfigError([_problem(composition, "checkpoint.resume_from_checkpoint", Path(AUTO), what, fix)])
    print(f"the weights of {found}", file=sys.stderr)
    return str(found)


def _root(path: Path) -> Path:
    """`outputs` of `outputs/<date>/<time>`."""
    return path.parents[1]


def _run_of(checkpoint: str) -> Path | None:
    """The run that a checkpoint's path belongs to, if it stands where runs keep theirs."""
    run = Path(checkpoint).expanduser().absolute().parents[1]
    return run if (run / run_directory.MANIFEST).exists() else None
