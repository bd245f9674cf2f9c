"""Rules of checks.py about `parallel`: meshes, wrapping, offloading, a user's DeepSpeed JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..problems import Problem
from . import deepspeed
from .config import Config
from .parallel import FSDP, DeepSpeed, Mesh, OffloadDevice, WrapPolicy


def sees_gpu(config: Config) -> bool:
    """Whether a GPU is there to be used, as far as one can tell without torch."""
    asked = bool(getattr(config.cluster, "gpus_per_node", None))  # of machines elsewhere
    return not config.run.use_cpu and (asked or any(Path("/dev").glob("nvidia[0-9]*")))


def mesh(config: Config) -> Iterator[Problem]:
    """A mesh has one place for each rank; a sequence is not split."""
    node, launch = config.parallel, config.launch
    if not isinstance(node, Mesh):
        return
    if node.cp_size > 1:
        what = "splits sequences, and a model's own attention then sees no keys but its rank's"
        fix = "parallel.cp_size=1 (parallel.tp_size spreads a layer, memory.activation_checkpointing spares memory)"
        yield Problem(key="parallel.cp_size", value=node.cp_size, what=what, allowed="1", fix=fix)
    if launch.nproc_per_node is None or launch.nproc_per_node < 1:
        return
    ranks, related = launch.nproc_per_node * launch.nnodes, ("launch.nproc_per_node", "launch.nnodes")
    tp = node.tp_size or launch.nproc_per_node
    sizes = {"tp_size": tp, "dp_replicate_size": node.dp_replicate_size, "dp_shard_size": node.dp_shard_size}
    given = {name: size for name, size in sizes.items() if size is not None}
    product = 1
    for size in given.values():
        product *= max(1, size)
    if product != ranks if len(given) == 3 else ranks % product:
        words = " x ".join(f"{name} {size}" for name, size in given.items())
        what = f"{words} = {product} does not {'make up' if len(given) == 3 else 'divide'} {ranks} ranks"
        yield Problem(key="parallel", what=what, fix=f"launch.nproc_per_node={product}", related=related)


def wrapping(config: Config) -> Iterator[Problem]:
    """Each policy of wrapping has an option of its own."""
    node, key = config.parallel, "parallel.auto_wrap_policy"
    if not isinstance(node, FSDP):
        return
    by_size = node.auto_wrap_policy is WrapPolicy.SIZE_BASED_WRAP
    if node.min_num_params and not by_size:
        what, fix = f"is only read with {key}=SIZE_BASED_WRAP", f"{key}=SIZE_BASED_WRAP"
        yield Problem(key="parallel.min_num_params", value=node.min_num_params, what=what, fix=fix, related=(key,))
    if by_size and not node.min_num_params:
        what, fix = "needs parallel.min_num_params", "parallel.min_num_params=100000000"
        yield Problem(key=key, value=str(node.auto_wrap_policy), what=what, fix=fix)
    if node.transformer_layer_cls_to_wrap and node.auto_wrap_policy is not WrapPolicy.TRANSFORMER_BASED_WRAP:
        name = "parallel.transformer_layer_cls_to_wrap"
        what, fix = f"is only read with {key}=TRANSFORMER_BASED_WRAP", f"{key}=TRANSFORMER_BASED_WRAP"
        yield Problem(key=name, value=node.transformer_layer_cls_to_wrap, what=what, fix=fix, related=(key,))


def offloading(config: Config) -> Iterator[Problem]:
    """There must be something to offload, something to offload from, and a way back for a checkpoint."""
    node = config.parallel
    if isinstance(node, FSDP) and node.cpu_offload and not sees_gpu(config):
        what = "needs a GPU: on a CPU everything is in host memory already"
        yield Problem(key="parallel.cpu_offload", value=True, what=what, fix="parallel=fsdp", related=("run.use_cpu",))
    if not isinstance(node, DeepSpeed):
        return
    nvme = [n for n in ("offload_optimizer", "offload_param") if getattr(node, n) is OffloadDevice.nvme]
    for name in nvme:
        what = "no checkpoint could be made: it would have to read back what DeepSpeed has swapped out to disk"
        fix = f"parallel.{name}=cpu"
        yield Problem(key=f"parallel.{name}", value="nvme", what=what, allowed="none, cpu", fix=fix)
    if node.nvme_path is not None and not nvme:
        what = "is only read with parallel.offload_param=nvme or parallel.offload_optimizer=nvme"
        yield Problem(key="parallel.nvme_path", value=node.nvme_path, what=what, fix="parallel.nvme_path=null")
    if node.config is not None:
        return
    for name, least in (("offload_optimizer", 1), ("offload_param", 3)):
        if getattr(node, name) is not OffloadDevice.none and node.zero_stage < least:
            what, fix = f"needs parallel.zero_stage {least} or more", f"parallel.zero_stage={max(2, least)}"
            value = str(getattr(node, name))
            yield Problem(key=f"parallel.{name}", value=value, what=what, fix=fix, related=("parallel.zero_stage",))


def deepspeed_file(config: Config) -> Iterator[Problem]:
    """A user's JSON is there, and says nothing else than this config; every conflict is a line."""
    node, key = config.parallel, "parallel.config"
    if not isinstance(node, DeepSpeed) or node.config is None:
        return
    try:
        given = deepspeed.read(node.config)
    except OSError as error:
        yield Problem(key=key, value=node.config, what=error.strerror or "cannot be read")
    except json.JSONDecodeError as error:
        yield Problem(key=key, value=node.config, what=f"is no JSON: line {error.lineno}: {error.msg}")
    except ValueError as error:
        yield Problem(key=key, value=node.config, what=str(error))
    else:
        for conflict in deepspeed.conflicts(given, config):
            yield Problem(key=key, value=node.config, what=str(conflict))


RULES = (mesh, wrapping, offloading, deepspeed_file)
