"""Starts the ranks of a run, waits for them, and says in one place how it ended. Imports torch only where it trains.

Local ranks are ours, not those of torch's elastic agent (torch.distributed.launcher), which flattens every exit code to
1 (75 means saved, 2 a wrong config), waits 30 s before it kills what hangs, leaves ranks running when it is killed, and
blames the rank that exits first: a survivor whose connection closed, not the one that broke it. Under torchrun, join()
makes of it what it can.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import describe
from ..run import directory as run_directory
from ..run.directory import Status
from ..schema import Config
from ..schema.parallel import Single
from ..train import interrupts

if TYPE_CHECKING:
    from ..cli.train import Prepared

EXIT_CODES = {Status.completed: 0, Status.failed: 1, Status.preempted: 75, Status.stopped: 130}
WRONG_CONFIG = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
GRACE_S = 5.0
"""How long the other ranks may take to end by themselves once one has failed."""
START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from trainer.launch.ranks import rank_main; rank_main()"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one rank ended."""

    status: Status
    error: str | None = None
    """What went wrong, on one line."""
    trace: str = ""
    lost_peer: bool = False
    """The error is about communication: another rank's failure is the cause."""
    silent: bool = False
    """It had not ended when the others had given up on it."""
    final: bool = False
    """It would fail again: ranks are not started once more."""


def launch(config: Config, directory: Path) -> int:
    """Train in this process, or in one process per rank; close the manifest. Returns CONTRACT.md's exit code.

    With launch.max_restarts a rank has a process of its own even where it is the only one.
    """
    world, left = world_size(config), config.launch.max_restarts
    if world == 1 and not left:
        return _close(config, directory, train_here(config, directory), "")
    while True:
        interrupts.last = None
        rank, outcome = _first_cause(_run_ranks(config, directory, world))
        who = f"{_name(rank)}: " if world > 1 else ""
        if outcome.status is not Status.failed or outcome.final or left == 0 or interrupts.last is not None:
            return _close(config, directory, outcome, who)
        left -= 1
        number, error = config.launch.max_restarts - left, f"{who}{outcome.error}"
        print(f"restart {number} of {config.launch.max_restarts}: {error}", file=sys.stderr)
        _note(directory, f"{error}\n{outcome.trace}")
        run_directory.restarted(directory, error)
        go_on(config)


def go_on(config: Config) -> None:
    """Let a run that starts once more go on from its own newest checkpoint, or afresh without one."""
    checkpoints = Path(config.run.output_dir) / "checkpoints"
    wish = config.checkpoint.resume_from_checkpoint
    if config.run.do_train and (wish is None or any(checkpoints.glob("checkpoint-*"))):
        config.checkpoint.resume_from_checkpoint = "auto"


def _name(rank: int) -> str:
    return f"rank {rank} on {socket.gethostname()}"


def world_size(config: Config) -> int:
    """Number of ranks: what launch.nproc_per_node says, else one per visible GPU, else one. One process trains with
    parallel=single, and with an optimizer that updates inside backward."""
    if isinstance(config.parallel, Single) or getattr(config.optim, "layerwise", False):
        return 1
    if config.launch.nproc_per_node is not None:
        return config.launch.nproc_per_node
    if config.run.use_cpu:
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def join(prepare: Callable[[], Prepared]) -> int:
    """Be one rank of a run that torchrun or srun started: rank 0 prepares (composes, claims a directory), all train.

    Whatever is wrong with the config is printed by rank 0 alone; every rank returns 2.
    """
    from torch.distributed.rendezvous import rendezvous

    if "TORCHELASTIC_RUN_ID" in os.environ:
        _die_with_parent()
    # env://: torchrun's own store, or one that rank 0 opens on MASTER_PORT and init_process_group will share
    store, rank, _ = next(rendezvous("env://"))
    prepared: Prepared | None = None
    if rank == 0:
        try:
            mine = prepare()
            run_directory.hold(mine.directory)
            given: dict[str, Any] = {"config": mine.config, "overrides": mine.overrides, "argv": sys.argv}
            run_directory.begin(mine.directory, **given, **mine.notes)
            if mine.requeued:
                go_on(mine.config)
            prepared = mine
        finally:  # a ConfigError goes on to the caller, which prints it
            store.set("trainer/prepared", pickle.dumps(prepared))
            if prepared is None:
                _wait_for_readers(store)
    else:
        prepared = pickle.loads(store.get("trainer/prepared"))  # from our own rank 0
        store.add("trainer/read", 1)
    if prepared is None:
        return WRONG_CONFIG
    if prepared.chdir:
        os.chdir(prepared.directory)
    outcome = train_here(prepared.config, prepared.directory)
    if interrupts.last == signal.SIGUSR1:  # the job's time is over, too
        outcome = replace(outcome, final=True)
    if outcome.lost_peer and _told(prepared.directory):
        return EXIT_CODES[Status.failed]
    if rank == 0 or outcome.error:
        return _close(prepared.config, prepared.directory, outcome, f"{_name(rank)}: ")
    return EXIT_CODES[outcome.status]


def _told(directory: Path) -> bool:
    """Whether the rank that failed first has said why, or does so within GRACE_S."""
    deadline = time.monotonic() + GRACE_S
    while run_directory.read(directory).get("status") == Status.running:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _wait_for_readers(store: Any) -> None:
    """Where rank 0 holds the store, the others must have read it before rank 0 exits."""
    deadline = time.monotonic() + GRACE_S
    while store.add("trainer/read", 0) < int(os.environ["WORLD_SIZE"]) - 1 and time.monotonic() < deadline:
        time.sleep(0.05)


def train_here(config: Config, directory: Path) -> Outcome:
    """Run this process's rank. A signal that comes before the loop listens waits until it does."""
    rank = int(os.environ.get("RANK", 0))
    with _signals_held():
        try:
            from ..logging.log_file import log_file

            levels = config.logging.log_level, config.logging.log_level_replica
            if rank and config.logging.log_on_each_node and int(os.environ.get("LOCAL_RANK", rank)) == 0:
                levels = levels[0], levels[0]
            with log_file(directory, rank=rank, level=levels[0], level_replica=levels[1]):
                from ..train.session import run

                return Outcome(status=Status(run(config, directory).status))
        except KeyboardInterrupt:
            return Outcome(status=Status.stopped)
        except BaseException as error:  # a user's sys.exit() is no success either
            from ..errors import CheckpointError, ConfigError

            return Outcome(
                status=Status.failed,
                error=describe(error),
                trace=traceback.format_exc(),
                lost_peer=_is_about_peers(error),
                final=isinstance(error, ConfigError | CheckpointError),
            )


def _is_about_peers(error: BaseException) -> bool:
    import torch.distributed as dist

    words = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Timed out waiting",
        "[c10d]",
        "NCCL error",
        "gloo",
    )
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, dist.DistError):
            return True
        if isinstance(chain, RuntimeError) and any(word in str(chain) for word in words):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _close(config: Config, directory: Path, outcome: Outcome, who: str) -> int:
    """The manifest's last entry; for a failure the traceback in train.log and one line on stderr."""
    error = None
    if outcome.error:
        from ..logging.log_file import FILE

        error = who + outcome.error
        _note(directory, f"{error}\n{outcome.trace}")
        print(f"error: {error}; traceback: {directory / FILE}", file=sys.stderr)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            print(outcome.trace, file=sys.stderr)
    final = {"final": True} if error and outcome.final else {}
    run_directory.finish(directory, outcome.status, error=error, **final)
    return EXIT_CODES[outcome.status]


def _note(directory: Path, text: str) -> None:
    from ..logging.log_file import FILE

    with (directory / FILE).open("a", encoding="utf-8") as file:
        file.write(text)


# Several ranks ---------------------------------------------------------------------------------------------------


class _Rank:
    """One rank's process, in a process group of its own: Ctrl-C reaches it once, through us."""

    def __init__(self, payload: bytes, environment: dict[str, str]) -> None:
        receiver, sender = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            env=os.environ | environment | {"TRAINER_OUTCOME_FD": str(sender)},
            pass_fds=[sender],
            process_group=0,
        )
        os.close(sender)
        self.pipe = receiver
        assert self.process.stdin is not None
        try:  # a pickle from us to our own child, through a pipe nobody else can write to
            self.process.stdin.write(payload)
            self.process.stdin.close()
        except BrokenPipeError:  # it died before reading: its exit code tells
            pass

    def outcome(self) -> Outcome:
        """What it sent, or how it died; blocks until it has ended."""
        with os.fdopen(self.pipe, "rb") as pipe:
            data = pipe.read()
        code = self.process.wait()
        if data:
            outcome: Outcome = pickle.loads(data)
            return outcome
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code} before its end"
        return Outcome(status=Status.failed, error=how)

    def silence(self) -> Outcome:
        """What to say of one that is still there when the others have given up on it."""
        state = Path(f"/proc/{self.process.pid}/stat")
        stopped = state.exists() and state.read_text().rpartition(")")[2].split()[0] in "Tt"
        what = "is stopped (SIGSTOP)" if stopped else "hangs"
        return Outcome(status=Status.failed, error=what, silent=True)


def _run_ranks(config: Config, directory: Path, world: int) -> Iterator[tuple[int, Outcome]]:
    """Start the ranks, pass signals on, and yield each one's outcome as it ends. None is left running."""
    payload = pickle.dumps(sys.path) + pickle.dumps((config, directory, os.getpid()))
    environment = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(_free_port())
    environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")  # the ranks share the cores
    ranks: list[_Rank] = []

    def forward(number: int, frame: object) -> None:
        interrupts.last = number
        for rank in ranks:
            rank.process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    selector = selectors.DefaultSelector()
    try:
        with _signals_held():  # the ranks inherit the mask, and listen when they can save
            for number in range(world):
                ranks.append(_Rank(payload, environment | {"RANK": str(number), "LOCAL_RANK": str(number)}))
                selector.register(ranks[-1].pipe, selectors.EVENT_READ, number)
        deadline = float("inf")
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                for key in selector.get_map().values():
                    yield key.data, ranks[key.data].silence()
                return
            for key, _ in selector.select(None if left == float("inf") else left):
                selector.unregister(key.fd)
                outcome = ranks[key.data].outcome()
                if outcome.status is Status.failed:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
                yield key.data, outcome
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _first_cause(outcomes: Iterator[tuple[int, Outcome]]) -> tuple[int, Outcome]:
    """The first failure that is not the echo of another rank's; without a failure what rank 0 says."""
    ended = list(outcomes)
    failed = [item for item in ended if item[1].status is Status.failed]
    echoes = [item for item in failed if item[1].lost_peer]
    causes = [item for item in failed if not item[1].lost_peer and not item[1].silent]
    silent = [item for item in failed if item[1].silent]
    if silent and echoes and not causes:  # a rank that hangs says nothing: its peers do
        (rank, outcome), (peer, echo) = silent[0], echoes[0]
        error = f"{outcome.error}, and rank {peer} waited in vain: {echo.error}"
        return rank, replace(outcome, error=error, trace=echo.trace)
    return next(iter(causes or failed or sorted(ended, key=lambda item: item[0])))


def rank_main() -> None:
    """A rank's process: config from stdin, outcome to the pipe."""
    config, directory, parent = pickle.load(sys.stdin.buffer)
    _die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    outcome = train_here(config, directory)
    with os.fdopen(int(os.environ["TRAINER_OUTCOME_FD"]), "wb") as pipe:
        pickle.dump(outcome, pipe)
    sys.exit(EXIT_CODES[outcome.status])


def _die_with_parent() -> None:
    """No rank outlives its launcher, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back SIGTERM and its like; Interrupts lets them through once it listens, and so does the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
