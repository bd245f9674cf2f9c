"""srun's environment variables under torch's names."""

from __future__ import annotations

import os
import re
import socket
import subprocess


def rank_environment() -> dict[str, str]:
    """RANK, WORLD_SIZE, MASTER_ADDR ... for a process that srun started as one of several; empty for any other.

    A batch script or an `salloc` shell has some of srun's variables, too, but no step of several tasks.
    """
    slurm = {name.removeprefix("SLURM_"): value for name, value in os.environ.items() if name.startswith("SLURM_")}
    if "STEP_ID" not in slurm or int(slurm.get("STEP_NUM_TASKS", 1)) < 2:
        return {}
    per_node = _tasks_per_node(slurm["STEP_TASKS_PER_NODE"])
    job, step = int(slurm["JOB_ID"]), int(slurm["STEP_ID"])
    found = {
        "RANK": slurm["PROCID"],
        "WORLD_SIZE": slurm["STEP_NUM_TASKS"],
        "LOCAL_RANK": slurm["LOCALID"],
        "LOCAL_WORLD_SIZE": str(per_node[int(slurm["NODEID"])]),
        "MASTER_ADDR": "127.0.0.1" if len(per_node) == 1 else _address(first_node(slurm["STEP_NODELIST"])),
        # the same on every rank, another for each step, below the ephemeral ports
        "MASTER_PORT": str(20000 + (job * 101 + step) % 10000),
    }
    return {name: os.environ.get(name, value) for name, value in found.items()}


def first_node(nodes: str) -> str:
    """`gpu07` for `gpu[07-09,12],other`."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes).split(",")[0]


def _tasks_per_node(counts: str) -> list[int]:
    """[2, 2, 2, 1] for `2(x3),1`."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in pairs for _ in range(int(times or 1))]


def _address(node: str) -> str:
    """A node's name, or the address that Slurm knows if the name cannot be resolved."""
    try:
        socket.getaddrinfo(node, None)
        return node
    except OSError:
        command = ["scontrol", "show", "node", "--oneliner", node]
        text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        found = re.search(r"\bNodeAddr=(\S+)", text)
        return found.group(1) if found else node
