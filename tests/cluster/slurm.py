"""A real Slurm for the tests: two nodes on this machine, its daemons and files our own, gone afterwards."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ranks import free_port

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
NODES = ("first", "second")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# a requeued job may start again once its old credentials have expired: after 120 s, were it not for cred_expire
AuthInfo=socket={place}/munge.socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
KillWait=5
ReturnToService=2
"""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """A running cluster; the environment variables that name it."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]
    if missing:
        pytest.skip(f"needs Debian's slurm-wlm and munge (.ci/run installs them): there is no {', '.join(missing)}")
    place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: a socket's path has 108 characters at most
    host = socket.gethostname().split(".")[0]
    text = CONF.format(host=host, control=free_port(), user=getpass.getuser(), place=place)
    for node in NODES:
        text += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=4\n"
        (place / f"spool-{node}").mkdir()
    text += "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE\n"
    (place / "slurm.conf").write_text(text)
    (place / "state").mkdir()
    (place / "munge.key").write_bytes(secrets.token_bytes(128))
    (place / "munge.key").chmod(0o600)
    variables = {"SLURM_CONF": str(place / "slurm.conf"), "PATH": PATH}
    munged = ["munged", "--foreground", "--force", f"--key-file={place}/munge.key", f"--socket={place}/munge.socket"]
    munged += [f"--{kind}-file={place}/munged.{kind}" for kind in ("pid", "log", "seed")]
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (place / "output").open("ab") as log:
            daemons.append(subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log))

    try:
        start(*munged)
        wait_for((place / "munge.socket").exists, "munged")
        start("slurmctld", "-D", "-c")
        for node in NODES:
            start("slurmd", "-D", "-c", "-N", node)
        ready = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        wait_for(lambda: ask(variables, *ready).strip() == str(len(NODES)), "slurmd")
        yield variables
    finally:
        if len(daemons) > 1:
            ask(variables, "scancel", f"--user={getpass.getuser()}")
            ask(variables, "scancel", f"--user={getpass.getuser()}", "--signal=KILL")
            time.sleep(0.5)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(place, ignore_errors=True)


def ask(variables: dict[str, str], *command: str) -> str:
    """A command's output; empty if it fails."""
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
