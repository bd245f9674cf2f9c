"""The code and the packages of a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..secrets import mask_code

PACKAGES = ("torch", "hydra-core", "omegaconf", "deepspeed", "wandb", "safetensors", "transformers", "numpy")
PATCH_LIMIT = 256 * 1024
"""Bytes of uncommitted changes saved in the manifest; the rest is cut."""


def git() -> dict[str, Any]:
    """Commit and uncommitted changes of the repository of the working directory; empty outside of a repository."""
    try:
        git = _git()
        status = _output([*git, "status", "--porcelain=v2", "--branch"]).splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    commits = [line.split()[2] for line in status if line.startswith("# branch.oid ")]
    sha = commits[0] if commits and commits[0] != "(initial)" else ""
    changed = [line for line in status if not line.startswith("#")]
    patch = _patch(git) if sha and any(not line.startswith("?") for line in changed) else ""
    return {"sha": sha, "dirty": bool(changed), "patch": patch}


def _git() -> list[str]:
    """Git's command line, on which a repository's configuration starts no program: no monitor, hook or filter."""
    off = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "core.alternateRefsCommand=", "diff.external="]
    # takes no lock and starts no pager
    command = ["git", "--no-optional-locks", "--no-pager", *(word for setting in off for word in ("-c", setting))]
    try:
        configured = _output([*command, "config", "--local", "--name-only", "--get-regexp", r"^filter\."])
    except subprocess.CalledProcessError:  # there is none
        return command
    for name in configured.splitlines():
        command += ["-c", f"{name}=" if not name.endswith(".required") else f"{name}=false"]
    return command


def _environment() -> dict[str, str]:
    """The environment without git's variables, which can name programs to run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=_environment())
    return done.stdout


def _patch(git: list[str]) -> str:
    command = [*git, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams, env=_environment()) as process:
        assert process.stdout is not None
        content = process.stdout.read(PATCH_LIMIT + 1)
        process.kill()
    text = content[:PATCH_LIMIT].decode(errors="replace")
    cut = f"\n... cut at {PATCH_LIMIT} bytes\n" if len(content) > PATCH_LIMIT else ""
    return mask_code(text) + cut


def packages() -> Iterator[tuple[str, str]]:
    """Name and version of each of PACKAGES that is installed."""
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
