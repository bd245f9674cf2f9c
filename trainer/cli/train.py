"""`python train.py [FLAGS] [OVERRIDES]`: one run, a sweep, or a look at the config. Only a run imports torch."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import ConfigError
from ..launch.outcome import EXIT_CODES, exit_code
from ..run.directory import Status
from ..secrets import mask_text

if TYPE_CHECKING:
    from ..config.composer import Loader
    from ..launch.prepared import Prepared


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code is CONTRACT.md's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:  # the installed command has its own folder there
        sys.path.insert(0, os.getcwd())
    try:
        return exit_code(lambda: _main(arguments))
    except KeyboardInterrupt:  # while composing; a run answers it itself, with a checkpoint
        return EXIT_CODES[Status.stopped]
    except BrokenPipeError:  # `--cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CODES[Status.failed]


def _main(argv: list[str]) -> int:
    from ..config.hydra import flags_parser
    from ..config.trust import typed_secrets
    from .flags import refuse_unknown

    parser = flags_parser(f"trainer {__version__}")
    refuse_unknown(argv, parser)
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
    for line in typed_secrets(args.overrides):
        print(line, file=sys.stderr)
    multirun = args.multirun or _mode(args) == "MULTIRUN"
    if _started_as_rank():  # by torchrun or srun: rank 0 composes for all
        if multirun:
            parser.error("a sweep starts its trials' ranks itself (launch.nproc_per_node): run -m without torchrun")
        from ..launch.place import check_environment
        from ..launch.torchrun import join

        if problems := list(check_environment()):
            raise ConfigError(problems)
        return join(lambda: _prepare(args))
    if multirun:
        from ..sweep import sweep

        return sweep(loader_of(args), config_name(args), args.overrides)
    from ..launch import start

    prepared = _prepare(args)
    if prepared.config.cluster is None:
        return start.start(prepared)
    (job,) = start.submit([prepared])
    print(f"job {job}: {prepared.directory}")
    return 0


def _prepare(args: argparse.Namespace) -> Prepared:
    """Compose, check, and claim the run's directory.

    Raises:
        ConfigError: with every problem; nothing has been written then.
    """
    from hydra.types import RunMode

    from ..launch import start

    composition = loader_of(args).compose(config_name(args), args.overrides, RunMode.RUN)
    return start.prepare(composition, start.check(composition), args.overrides)


def _started_as_rank() -> bool:
    if "SLURM_STEP_ID" in os.environ and "RANK" not in os.environ:
        from ..cluster.srun import rank_environment

        os.environ.update(rank_environment())
    return "RANK" in os.environ  # alone, it is refused by check_environment


def _look(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Hydra's own ways to look at a config."""
    from ..config.hydra import viewer

    name, overrides = config_name(args), args.overrides
    gc.disable()  # nothing here lives long; collecting took 7 % of `--cfg job`
    try:
        with viewer(loader_of(args)) as hydra:
            if args.help:
                from .help import help_text

                groups = hydra.format_config_groups(lambda group: not group.startswith(("hydra", "schema")))
                print(help_text(groups))
            elif args.hydra_help:
                hydra.hydra_help(name, args_parser=parser, args=args)
            elif args.cfg:
                shown = io.StringIO()
                with redirect_stdout(shown):
                    hydra.show_cfg(name, overrides, args.cfg, args.package, args.resolve)
                print(mask_text(shown.getvalue()), end="")
            elif args.info is not None:
                hydra.show_info(args.info, name, overrides)
            else:
                try:
                    hydra.shell_completion(name, overrides)
                except ValueError as error:
                    parser.error(" ".join(str(error).split()))
    finally:
        gc.enable()
    return 0


def loader_of(args: argparse.Namespace) -> Loader:
    """The loader for the command line's search path."""
    from ..config.composer import make_loader

    return make_loader(args.config_dir)


def config_name(args: argparse.Namespace) -> str:
    """The primary config's name."""
    from ..config.composer import CONFIG_NAME

    return args.config_name or CONFIG_NAME


def _mode(args: argparse.Namespace) -> str | None:
    given = [o.partition("=")[2] for o in args.overrides if o.startswith("hydra.mode=")]
    return given[-1].upper() if given else None
