"""Rules about the machine that composes: its GPUs, the packages that are installed, the paths that exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import Problem
from ..schema import cluster, parallel
from ..schema.checks.check import Rule
from ..schema.checks.optim import is_packaged
from ..schema.checks.sentences import needs, outside, wrong
from ..schema.config import Config

PACKAGES: dict[str, tuple[str, str]] = {
    "HFCausalLM": ("transformers", "transformers"),
    "DeepSpeed": ("deepspeed", "deepspeed"),
    "Digits": ("sklearn", "scikit-learn"),
    "Wandb": ("wandb", "wandb"),
    "TensorBoard": ("tensorboard", "tensorboard"),
    "MLflow": ("mlflow", "mlflow"),
    "Trackio": ("trackio", "trackio"),
    "Comet": ("comet_ml", "comet_ml"),
    "ClearML": ("clearml", "clearml"),
    "DVCLive": ("dvclive", "dvclive"),
    "CodeCarbon": ("codecarbon", "codecarbon"),
    "Neptune": ("neptune", "neptune"),
    "SwanLab": ("swanlab", "swanlab"),
    "Aim": ("aim", "aim"),
    "Flyte": ("flytekit", "flytekit"),
    "AzureML": ("azureml", "azureml-core"),
}
"""Options that need a package beyond the core: class -> (module, name to install). By name, since to import all the
classes takes long."""
BACKENDS = ("inductor", "eager", "aot_eager", "aot_eager_decomp_partition", "cudagraphs", "onnxrt", "openxla", "tvm")
"""torch.compile's own."""


def sees_gpu(config: Config) -> bool:
    """Whether the run will have a GPU, as far as one can tell without torch."""
    asked = bool(getattr(config.cluster, "gpus_per_node", None))  # of machines elsewhere
    return not config.run.use_cpu and (asked or any(Path("/dev").glob("nvidia[0-9]*")))


def gpus(config: Config) -> Iterator[Problem]:
    """What needs a GPU finds one."""
    node, related = config.parallel, ("run.use_cpu", "parallel")
    if config.precision.fp16 and isinstance(node, parallel.DeepSpeed) and not sees_gpu(config):
        what = "is not supported by DeepSpeed on a CPU"
        yield wrong("precision.fp16", True, what, fix="precision=bf16", related=related)
    if isinstance(node, parallel.FSDP) and node.cpu_offload and not sees_gpu(config):
        other = "a GPU: on a CPU everything is in host memory already"
        yield needs("parallel.cpu_offload", True, other, fix="parallel=fsdp", related=related)


def packages(config: Config) -> Iterator[Problem]:
    """What the chosen options import is installed (found, not imported)."""
    nodes = {"model": config.model, "parallel": config.parallel, "data.train_dataset": config.data.train_dataset}
    nodes |= {f"logging.reporters.{name}": node for name, node in config.logging.reporters.items()}
    for key, node in nodes.items():
        if type(node).__name__ in PACKAGES:
            yield from _package(key, *PACKAGES[type(node).__name__])
    if isinstance(config.cluster, cluster.Slurm):
        yield from _package("cluster", "submitit", "submitit")
    if isinstance(config.cluster, cluster.Ray):
        yield from _package("cluster", "ray", "'ray[default]'")
    if config.hub.push_to_hub:
        yield from _package("hub.push_to_hub", "huggingface_hub", "huggingface_hub", True)
    if config.compile.use_liger_kernel:
        yield from _package("compile.use_liger_kernel", "liger_kernel", "liger-kernel", True)
    if "tpu_metrics_debug" in config.run.debug.split():
        yield from _package("run.debug", "torch_xla", "torch_xla", config.run.debug)


def _package(key: str, module: str, name: str, value: Any = ...) -> Iterator[Problem]:
    if find_spec(module) is None:
        yield needs(key, value, f"the package {name}, which is not installed", fix=f"pip install {name}")


def optimizer_package(config: Config) -> Iterator[Problem]:
    """The optimizer's package is installed."""
    if not is_packaged(config.optim):
        return
    from ..schema.optim_packages import PACKAGES as OPTIMIZERS

    for cls, (module, cure) in OPTIMIZERS.items():
        if isinstance(config.optim, cls) and find_spec(module) is None:
            yield needs("optim", ..., f"the package {module}, which is not installed", fix=cure)


def backend(config: Config) -> Iterator[Problem]:
    """torch.compile knows the backend, or an installed package offers it."""
    chosen = config.compile.torch_compile_backend
    if chosen is not None and chosen not in BACKENDS:
        from importlib.metadata import entry_points  # 9 ms that other configs do not need

        known = [*BACKENDS, *entry_points(group="torch_dynamo_backends").names]
        if chosen not in known:
            yield outside("compile.torch_compile_backend", chosen, "there is no such backend", ", ".join(known))


def resume(config: Config) -> Iterator[Problem]:
    """A checkpoint given by its path is there."""
    key, path = "checkpoint.resume_from_checkpoint", config.checkpoint.resume_from_checkpoint
    if path is None or path == "auto":
        return
    place = os.path.expanduser(path)
    if not os.path.isdir(place):  # unlike Path.is_dir, it takes a name that is too long
        yield outside(key, path, "there is no such checkpoint directory", "auto or a path", fix=f"{key}=auto")
    elif not _holds_checkpoint(Path(place)):
        yield outside(key, path, "holds no checkpoint", "a run, or one of its checkpoints", fix=f"{key}=auto")


def _holds_checkpoint(place: Path) -> bool:
    """Whether it is a run's directory, its `checkpoints`, or a checkpoint, whole or not: loading verifies it."""
    names = [*([place.resolve().name]), *(child.name for child in place.iterdir())]
    return any(name in ("manifest.json", "checkpoints") or name.startswith("checkpoint-") for name in names)


RULES: tuple[Rule, ...] = (gpus, packages, optimizer_package, backend, resume)
