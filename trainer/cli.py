"""`python train.py [FLAGS] [OVERRIDES]`: one run, a sweep, or a look at the config. Only a run imports torch."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import ConfigError, Problem

if TYPE_CHECKING:
    from .compose import Composition, Loader
    from .schema import Config

WRONG_CONFIG = 2


@dataclass(slots=True)
class Prepared:
    """A run that can start: checked, with its directory claimed."""

    config: Config
    directory: Path
    overrides: list[str]
    argv: list[str]
    resumed: bool
    """The directory held this run before."""
    chdir: bool = False
    """hydra.job.chdir: work inside the directory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code is CONTRACT.md's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:  # the installed command has its own folder there
        sys.path.insert(0, os.getcwd())
    try:
        return _main(arguments)
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print("\n".join(error.lines()), file=sys.stderr)
        return WRONG_CONFIG
    except KeyboardInterrupt:  # while composing; a run answers it itself, with a checkpoint
        return 130
    except BrokenPipeError:  # `--cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(argv: list[str]) -> int:
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    args = parser.parse_intermixed_args(argv)
    actions = (bool(args.cfg), args.info is not None, args.shell_completion, args.run, args.multirun)
    if sum(actions) > 1:
        parser.error("only one of --run, --multirun, --cfg, --info and --shell-completion can be given")
    if args.resolve and not args.cfg:
        parser.error("--resolve goes with --cfg")
    if args.config_path is not None or args.experimental_rerun is not None:
        parser.error("--config-path and --experimental-rerun are not supported; see --config-dir and --config-name")
    if any((args.help, args.hydra_help, args.cfg, args.info, args.shell_completion)):
        return _look(args, parser)
    multirun = args.multirun or _mode(args) == "MULTIRUN"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:  # started by torchrun: rank 0 composes for all
        if multirun:
            parser.error("a sweep starts its trials' ranks itself (launch.nproc_per_node): run -m without torchrun")
        from .launch import join

        return join(lambda: prepare(args, argv))
    if multirun:
        from .sweep import sweep

        return sweep(args, argv)
    return start(prepare(args, argv))


def _look(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Hydra's own ways to look at a config."""
    from hydra._internal.hydra import Hydra
    from hydra.core.global_hydra import GlobalHydra

    loader = loader_of(args)
    hydra = Hydra(task_name="train", config_loader=loader)
    GlobalHydra.instance().initialize(hydra)
    name, overrides = config_name(args), args.overrides
    gc.disable()  # nothing here lives long; collecting took 7 % of `--cfg job`
    try:
        if args.help:
            from .help import help_text

            print(help_text(hydra))
        elif args.hydra_help:
            hydra.hydra_help(name, args_parser=parser, args=args)
        elif args.cfg:
            hydra.show_cfg(name, overrides, args.cfg, args.package, args.resolve)
        elif args.info is not None:
            hydra.show_info(args.info, name, overrides)
        else:
            try:
                hydra.shell_completion(name, overrides)
            except ValueError as error:
                parser.error(" ".join(str(error).split()))
    finally:
        gc.enable()
        GlobalHydra.instance().clear()
    return 0


def loader_of(args: argparse.Namespace) -> Loader:
    """The loader for the command line's search path."""
    from .compose import make_loader

    return make_loader(args.config_dir)


def config_name(args: argparse.Namespace) -> str:
    """The primary config's name."""
    from .compose import CONFIG_NAME

    return args.config_name or CONFIG_NAME


def _mode(args: argparse.Namespace) -> str | None:
    given = [o.partition("=")[2] for o in args.overrides if o.startswith("hydra.mode=")]
    return given[-1].upper() if given else None


def prepare(args: argparse.Namespace, argv: list[str]) -> Prepared:
    """Compose, check, and claim the run's directory.

    Raises:
        ConfigError: with every problem; nothing has been written then.
    """
    from hydra.types import RunMode

    composition = loader_of(args).compose(config_name(args), args.overrides, RunMode.RUN)
    config = checked(composition)
    from .resume import claim

    directory, resumed = claim(composition, config)
    config.run.output_dir = str(directory)
    job = composition.cfg.hydra.job
    os.environ.update({str(name): str(value) for name, value in job.env_set.items()})
    return Prepared(config, directory, args.overrides, argv, resumed, bool(job.chdir))


def checked(composition: Composition) -> Config:
    """The composition's config, once its foreign targets are imported and bound as well.

    Raises:
        ConfigError: with every problem.
    """
    from .targets import check_calls

    problems: list[Problem] = composition.problems
    if composition.config is not None:
        problems = problems + composition.origins.fill(check_calls(composition.config))
    if problems or composition.config is None:
        raise ConfigError(problems)
    return composition.config


def start(prepared: Prepared) -> int:
    """Run what was prepared; this imports torch."""
    from . import run_directory
    from .launch import launch

    run_directory.begin(prepared.directory, config=prepared.config, overrides=prepared.overrides, argv=sys.argv)
    if prepared.chdir:
        os.chdir(prepared.directory)
    return launch(prepared.config, prepared.directory)
