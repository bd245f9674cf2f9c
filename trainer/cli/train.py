"""`python train.py [FLAGS] [OVERRIDES]`: one run, a sweep, or a look at the config. Only a run imports torch."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import COMMAND_LINE, ConfigError, Problem
from ..schema.cluster import Slurm

if TYPE_CHECKING:
    from ..config.composer import Composition, Loader
    from ..schema import Config

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
    environment: dict[str, str] = field(default_factory=dict)
    """hydra.job.env_set, for a process elsewhere."""
    requeued: bool = False
    """A cluster starts it not for the first time: it goes on from its own newest checkpoint."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the manifest says on top."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code is CONTRACT.md's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:  # the installed command has its own folder there
        sys.path.insert(0, os.getcwd())
    try:
        return guarded(lambda: _main(arguments))
    except KeyboardInterrupt:  # while composing; a run answers it itself, with a checkpoint
        return 130
    except BrokenPipeError:  # `--cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def guarded(action: Callable[[], int]) -> int:
    """What ``action`` returns; 2 once stderr has said, a problem a line, what is wrong with the config."""
    try:
        return action()
    except ConfigError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print("\n".join(error.lines()), file=sys.stderr)
        return WRONG_CONFIG


def _main(argv: list[str]) -> int:
    from ..config.hydra import flags_parser

    parser = flags_parser()
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
    if _started_as_rank():  # by torchrun or srun: rank 0 composes for all
        if multirun:
            parser.error("a sweep starts its trials' ranks itself (launch.nproc_per_node): run -m without torchrun")
        from ..launch.ranks import join

        return join(lambda: prepare(args, argv))
    if multirun:
        from ..sweep import sweep

        return sweep(args, argv)
    prepared = prepare(args, argv)
    if prepared.config.cluster is None:
        return start(prepared)
    (job,) = submit([prepared])
    print(f"job {job}: {prepared.directory}")
    return 0


def _started_as_rank() -> bool:
    if "SLURM_STEP_ID" in os.environ and "RANK" not in os.environ:
        from ..cluster.srun import rank_environment

        os.environ.update(rank_environment())
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


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


def prepare(args: argparse.Namespace, argv: list[str]) -> Prepared:
    """Compose, check, and claim the run's directory.

    Raises:
        ConfigError: with every problem; nothing has been written then.
    """
    from hydra.types import RunMode

    composition = loader_of(args).compose(config_name(args), args.overrides, RunMode.RUN)
    config = checked(composition)
    refuse_place(composition, config)
    from ..run.claim import claim

    directory, resumed = claim(composition, config)
    config.run.output_dir = str(directory)
    job = composition.cfg.hydra.job
    environment = {str(name): str(value) for name, value in job.env_set.items()}
    os.environ.update(environment)
    return Prepared(config, directory, args.overrides, argv, resumed, bool(job.chdir), environment)


def checked(composition: Composition) -> Config:
    """The composition's config, once its foreign targets are imported and bound as well.

    Raises:
        ConfigError: with every problem.
    """
    from ..build.calls import check_calls

    problems: list[Problem] = composition.problems
    if composition.config is not None:
        problems = problems + composition.origins.fill(check_calls(composition.config))
    if problems or composition.config is None:
        raise ConfigError(problems)
    return composition.config


def refuse_place(composition: Composition, config: Config) -> None:
    """What the place where this command runs cannot do.

    Raises:
        ConfigError: with every problem.
    """
    settings, cluster = config.launch, config.cluster
    problems: list[Problem] = []
    if "RANK" in os.environ:
        here, world = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ["WORLD_SIZE"])
        wrong = {
            "launch.nproc_per_node": (settings.nproc_per_node not in (None, here), f"{here} ranks were started here"),
            "launch.nnodes": (settings.nnodes not in (1, world // here), f"{world // here} machines were started"),
            "launch.max_restarts": (settings.max_restarts > 0, "is torchrun's: --max-restarts"),
            "cluster": (cluster is not None, "the ranks were started already, by torchrun or srun"),
            "optim.layerwise": (
                world > 1 and getattr(config.optim, "layerwise", False),
                f"updates before gradients are averaged over ranks, of which {world} were started",
            ),
        }
        fixes = {"launch.nnodes": "launch.nnodes=1", "launch.max_restarts": "launch.max_restarts=0"}
        fixes |= {"launch.nproc_per_node": "launch.nproc_per_node=null", "cluster": "cluster=local"}
        fixes["optim.layerwise"] = "one rank"
        problems = [Problem(key=key, what=what, fix=fixes[key]) for key, (is_wrong, what) in wrong.items() if is_wrong]
    elif settings.nnodes > 1 and cluster is None:
        what, fix = "this command starts one machine's ranks", "cluster=slurm, or torchrun on each machine"
        problems = [Problem(key="launch.nnodes", value=settings.nnodes, what=what, fix=fix)]
    elif isinstance(cluster, Slurm) and shutil.which("sbatch") is None:
        problems = [Problem(key="cluster", value="slurm", what="there is no sbatch on PATH: not a Slurm cluster")]
    if problems:
        raise ConfigError(composition.origins.fill(problems))


def submit(runs: list[Prepared]) -> list[str]:
    """Hand runs to their cluster; the jobs' ids.

    Raises:
        ConfigError: the cluster takes none of them; what had been written is gone.
    """
    from ..build.build import build
    from ..run import directory as run_directory

    for run in runs:
        given: dict[str, Any] = {"config": run.config, "overrides": run.overrides, "argv": sys.argv}
        began = run_directory.read(run.directory).get("started_at")
        run_directory.begin(run.directory, **given, status=run_directory.Status.queued, started_at=began)
    try:
        jobs: list[str] = build(runs[0].config.cluster).submit([replace(run, argv=sys.argv) for run in runs])
    except RuntimeError as error:
        for run in runs:
            if not run.resumed:
                run_directory.discard(run.directory)
        raise ConfigError([Problem(key="cluster", origin=COMMAND_LINE, what=" ".join(str(error).split()))]) from None
    return jobs


def start(prepared: Prepared) -> int:
    """Run what was prepared; this imports torch.

    Raises:
        ConfigError: another process runs it now.
    """
    from ..launch.ranks import go_on, launch
    from ..run import directory as run_directory

    run_directory.hold(prepared.directory)
    given: dict[str, Any] = {"config": prepared.config, "overrides": prepared.overrides, "argv": sys.argv}
    run_directory.begin(prepared.directory, **given, **prepared.notes)
    if prepared.requeued:
        go_on(prepared.config)
    if prepared.chdir:
        os.chdir(prepared.directory)
    return launch(prepared.config, prepared.directory)
