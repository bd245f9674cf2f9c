"""Rules of `compile`: what torch.compile and liger-kernel can be asked."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import Problem
from ..config import Config
from .sentences import excludes, needs, outside, wrong

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
COMPILE, MODE = "compile.torch_compile", "compile.torch_compile_mode"


def compilation(config: Config) -> Iterator[Problem]:
    """A backend and a mode go with compilation; modes are inductor's."""
    node = config.compile
    for name in ("torch_compile_backend", "torch_compile_mode"):
        if getattr(node, name) is not None and node.torch_compile is False:
            yield excludes(f"compile.{name}", getattr(node, name), f"{COMPILE}=false", fix=f"{COMPILE}=true")
            return
    backend, mode = node.torch_compile_backend, node.torch_compile_mode
    if mode is not None and mode not in MODES:
        yield outside(MODE, mode, "there is no such mode", ", ".join(MODES))
    elif mode not in (None, "default") and backend not in (None, "inductor"):
        what, related = f"is a mode of inductor, not of {backend}", ("compile.torch_compile_backend",)
        yield wrong(MODE, mode, what, fix=f"{MODE}=null", related=related)


def liger(config: Config) -> Iterator[Problem]:
    """liger_kernel_config is of use with the kernels."""
    node = config.compile
    if node.liger_kernel_config and not node.use_liger_kernel:
        yield needs("compile.liger_kernel_config", node.liger_kernel_config, "compile.use_liger_kernel=true")


RULES = (compilation, liger)
