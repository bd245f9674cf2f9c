"""The code and the packages of a run."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .secrets import mask_code

PACKAGES = ("torch", "hydra-core", "omegaconf", "deepspeed", "wandb", "safetensors", "transformers", "numpy")
PATCH_LIMIT = 256 * 1024
"""Bytes of uncommitted changes saved in the manifest; the rest is cut."""


def git() -> dict[str, Any]:
    """Commit and uncommitted changes of the repository of the working directory; empty outside of a repository."""
    try:
        status = subprocess.run(
            [*_GIT, "status", "--porcelain=v2", "--branch"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    commits = [line.split()[2] for line in status if line.startswith("# branch.oid ")]
    sha = commits[0] if commits and commits[0] != "(initial)" else ""
    changed = [line for line in status if not line.startswith("#")]
    patch = _patch() if sha and any(not line.startswith("?") for line in changed) else ""
    return {"sha": sha, "dirty": bool(changed), "patch": patch}


# takes no lock and starts no pager
_GIT = ("git", "--no-optional-locks", "--no-pager")


def _patch() -> str:
    command = [*_GIT, "diff", "--no-ext-diff", "--no-color", "HEAD"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
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
