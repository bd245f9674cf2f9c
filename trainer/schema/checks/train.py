"""Rules of checks.py about memory, compilation, evaluation's format, the loss and the order of batches."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from ...errors import Problem
from .. import parallel, task
from ..config import Config

BACKENDS = ("inductor", "eager", "aot_eager", "aot_eager_decomp_partition", "cudagraphs", "onnxrt", "openxla", "tvm")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
CHECKPOINT_OPTIONS = ("every_n_layers", "offload", "use_reentrant", "preserve_rng_state", "determinism_check", "debug")
DEBUG_WORDS = ("underflow_overflow", "tpu_metrics_debug")


def compilation(config: Config) -> Iterator[Problem]:
    """What torch.compile and liger-kernel can be asked."""
    node = config.compile
    for name in ("torch_compile_backend", "torch_compile_mode"):
        if getattr(node, name) is not None and node.torch_compile is False:
            what = "excludes compile.torch_compile=false"
            fix, related = "compile.torch_compile=true", ("compile.torch_compile",)
            yield Problem(key=f"compile.{name}", value=getattr(node, name), what=what, fix=fix, related=related)
            return
    backend, mode = node.torch_compile_backend, node.torch_compile_mode
    if backend is not None and backend not in BACKENDS:
        from importlib.metadata import entry_points  # 9 ms that other configs do not need

        known = [*BACKENDS, *entry_points(group="torch_dynamo_backends").names]
        if backend not in known:
            what = "there is no such backend"
            yield Problem(key="compile.torch_compile_backend", value=backend, what=what, allowed=", ".join(known))
    if mode is not None and mode not in MODES:
        what = "there is no such mode"
        yield Problem(key="compile.torch_compile_mode", value=mode, what=what, allowed=", ".join(MODES))
    elif mode not in (None, "default") and backend not in (None, "inductor"):
        what, related = f"is a mode of inductor, not of {backend}", ("compile.torch_compile_backend",)
        fix = "compile.torch_compile_mode=null"
        yield Problem(key="compile.torch_compile_mode", value=mode, what=what, fix=fix, related=related)
    if node.liger_kernel_config and not node.use_liger_kernel:
        what, fix = "needs compile.use_liger_kernel=true", "compile.use_liger_kernel=true"
        yield Problem(key="compile.liger_kernel_config", value=node.liger_kernel_config, what=what, fix=fix)
    if node.use_liger_kernel and find_spec("liger_kernel") is None:
        what = "needs the package liger-kernel, which is not installed"
        yield Problem(key="compile.use_liger_kernel", value=True, what=what, fix="pip install liger-kernel")


def recomputation(config: Config) -> Iterator[Problem]:
    """activation_checkpointing_kwargs are known, and of use; a cache of keys and values is not recomputed."""
    node, key = config.memory, "memory.activation_checkpointing_kwargs"
    options, related = node.activation_checkpointing_kwargs, ("memory.activation_checkpointing",)
    if options and not node.activation_checkpointing:
        what, fix = "needs memory.activation_checkpointing=true", "memory.activation_checkpointing=true"
        yield Problem(key=key, value=options, what=what, fix=fix, related=related)
    for name, value in options.items():
        if name not in CHECKPOINT_OPTIONS:
            what = f"there is no option {name}"
            yield Problem(key=key, value=options, what=what, allowed=", ".join(CHECKPOINT_OPTIONS))
        elif name == "every_n_layers" and (type(value) is not int or value < 1):
            yield Problem(key=key, value=options, what=f"every_n_layers={value}", allowed="a whole number, at least 1")
        elif name not in ("every_n_layers", "determinism_check") and not isinstance(value, bool):
            yield Problem(key=key, value=options, what=f"{name}={value}", allowed="true, false")
    if node.use_cache and node.activation_checkpointing:
        what, fix = "excludes memory.activation_checkpointing=true", "memory.use_cache=false"
        yield Problem(key="memory.use_cache", value=True, what=what, fix=fix, related=related)


def full_eval(config: Config) -> Iterator[Problem]:
    """Evaluation has one format, and whole weights to cast."""
    node = config.precision
    if node.bf16_full_eval and node.fp16_full_eval:
        what, fix = "excludes precision.fp16_full_eval=true", "precision.fp16_full_eval=false"
        related: tuple[str, ...] = ("precision.fp16_full_eval",)
        yield Problem(key="precision.bf16_full_eval", value=True, what=what, fix=fix, related=related)
        return
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(node, name) and isinstance(config.parallel, parallel.FSDP | parallel.DeepSpeed):
            what = "cannot cast weights that are sharded over the ranks"
            yield Problem(key=f"precision.{name}", value=True, what=what, fix="parallel=ddp", related=("parallel",))


def debugging(config: Config) -> Iterator[Problem]:
    """run.debug's words, and what they need."""
    words = config.run.debug.split()
    if unknown := [word for word in words if word not in DEBUG_WORDS]:
        what = f"there is no {unknown[0]}"
        yield Problem(key="run.debug", value=config.run.debug, what=what, allowed=", ".join(DEBUG_WORDS))
    if "tpu_metrics_debug" in words and find_spec("torch_xla") is None:
        what = "needs the package torch_xla, which is not installed"
        yield Problem(key="run.debug", value=config.run.debug, what=what, fix="pip install torch_xla")
    if "underflow_overflow" in words and config.compile.asked():
        what, fix = "sees no module of a compiled model", "compile.torch_compile=false"
        yield Problem(key="run.debug", value=config.run.debug, what=what, fix=fix, related=("compile.torch_compile",))


def smoothing(config: Config) -> Iterator[Problem]:
    """Labels are smoothed by the tasks that have classes."""
    factor = config.train.label_smoothing_factor
    if factor > 0 and not isinstance(config.task, task.LanguageModeling | task.Classification):
        what, key = "needs a task with classes of its own", "train.label_smoothing_factor"
        fix = "task=classification (torch.nn.CrossEntropyLoss has task.label_smoothing itself)"
        yield Problem(key=key, value=factor, what=what, fix=fix, related=("task",))


def batch_order(config: Config) -> Iterator[Problem]:
    """Only workers can come out of order; and then nothing repeats to the bit."""
    data, key = config.data, "data.dataloader_in_order"
    if data.dataloader_in_order:
        return
    if not data.dataloader_num_workers:
        what, related = "needs worker processes", ("data.dataloader_num_workers",)
        yield Problem(key=key, value=False, what=what, fix="data.dataloader_num_workers=2", related=related)
    if config.run.full_determinism:
        what = "excludes run.full_determinism=true"
        yield Problem(key=key, value=False, what=what, fix="data.dataloader_in_order=true")


def targets(config: Config) -> Iterator[Problem]:
    """An empty list would name no target."""
    if config.data.label_names == []:
        yield Problem(key="data.label_names", value=[], what="names no key", fix="data.label_names=null")


def nodes(config: Config) -> Iterator[Problem]:
    """A run's directory is one for all machines."""
    if config.checkpoint.save_on_each_node:
        what = "every rank writes its part into the run's directory, on a file system that all nodes share"
        fix = "checkpoint.save_on_each_node=false"
        yield Problem(key="checkpoint.save_on_each_node", value=True, what=what, fix=fix)


def batch_size(config: Config) -> Iterator[Problem]:
    """A run that starts over must know that nobody still writes its checkpoints."""
    if config.train.auto_find_batch_size and config.checkpoint.async_save:
        what, related = "excludes checkpoint.async_save=true", ("checkpoint.async_save",)
        fix = "checkpoint.async_save=false"
        yield Problem(key="train.auto_find_batch_size", value=True, what=what, fix=fix, related=related)


RULES = (batch_size, compilation, recomputation, full_eval, debugging, smoothing, batch_order, targets, nodes)
