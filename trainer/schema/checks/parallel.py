"""Rules of checks.py about `parallel`: meshes, wrapping, offloading, a user's DeepSpeed JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import Problem
from .. import deepspeed
from ..config import Config
from ..parallel import FSDP, DeepSpeed, Mesh, OffloadDevice, WrapPolicy


def sees_gpu(config: Config) -> bool:
    """Whether a GPU is there to be used, as far as one can tell without torch."""
    asked = bool(getattr(config.cluster, "gpus_per_node", None))  # of machines elsewhere
    return not config.run.use_cpu and (asked or any(Path("/dev").glob("nvidia[0-9]*")))


def mesh(config: Config) -> Iterator[Problem]:
    """A mesh has one place for each rank."""
    node, launch = config.parallel, config.launch
    if not isinstance(node, Mesh) or launch.nproc_per_node is None or launch.nproc_per_node < 1:
        return
    ranks, related = launch.nproc_per_node * launch.nnodes, ("launch.nproc_per_node", "launch.nnodes")
    tp = node.tp_size or launch.nproc_per_node
    sizes = {
        "dp_replicate_size": node.dp_replicate_size,
        "dp_shard_size": node.dp_shard_size,
        "cp_size": node.cp_size,
        "tp_size": tp,
    }
    given = {name: size for name, size in sizes.items() if size is not None}
    product = 1
    for size in given.values():
        product *= max(1, size)
    if product != ranks if len(given) == len(sizes) else ranks % product:
        words = " x ".join(f"{name} {size}" for name, size in given.items())
        what = f"{words} = {product} does not {'make up' if len(given) == len(sizes) else 'divide'} {ranks} ranks"
        yield Problem(key="parallel", what=what, fix=f"launch.nproc_per_node={product}", related=related)


def cut_sequences(config: Config) -> Iterator[Problem]:
    """What would see a part of a sequence and take it for the whole."""
    node, key = config.parallel, "parallel.cp_size"
    if not isinstance(node, Mesh) or node.cp_size <= 1:
        return
    liger = config.compile.use_liger_kernel and config.compile.liger_kernel_config.get(
        "fused_linear_cross_entropy", True
    )
    for other, wrong, what, fix in (
        ("compile.torch_compile", config.compile.asked(), "its attention is exchanged in each call", "false"),
        ("compile.use_liger_kernel", liger, "its fused loss is one of whole sequences", "false"),
        (
            "train.neftune_noise_alpha",
            config.train.neftune_noise_alpha is not None,
            "the noise's size depends on the sequence's length",
            "null",
        ),
    ):
        if wrong:
            what = f"excludes {other}: {what}"
            yield Problem(key=key, value=node.cp_size, what=what, fix=f"{other}={fix}", related=(other,))


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
    """There must be something to offload, something to offload from, and a place on disk where that is meant."""
    node = config.parallel
    if isinstance(node, FSDP) and node.cpu_offload and not sees_gpu(config):
        what = "needs a GPU: on a CPU everything is in host memory already"
        yield Problem(key="parallel.cpu_offload", value=True, what=what, fix="parallel=fsdp", related=("run.use_cpu",))
    if not isinstance(node, DeepSpeed):
        return
    if isinstance(node.config, dict):
        yield from _offloading_in_file(node, node.config)
        return
    nvme = [n for n in ("offload_optimizer", "offload_param") if getattr(node, n) is OffloadDevice.nvme]
    if nvme and node.nvme_path is None:
        what = f"is needed by parallel.{nvme[0]}=nvme: a directory on a disk of each machine's own"
        yield Problem(key="parallel.nvme_path", value=None, what=what, fix="parallel.nvme_path=/local_nvme")
    if node.nvme_path is not None and not nvme:
        what = "is only read with parallel.offload_param=nvme or parallel.offload_optimizer=nvme"
        yield Problem(key="parallel.nvme_path", value=node.nvme_path, what=what, fix="parallel.nvme_path=null")
    for name in ("offload_optimizer", "offload_param"):
        device = getattr(node, name)
        least = 1 if name == "offload_optimizer" and device is not OffloadDevice.nvme else 3
        if device is not OffloadDevice.none and node.zero_stage < least:
            what, fix = f"needs parallel.zero_stage {least} or more", f"parallel.zero_stage={max(2, least)}"
            yield Problem(
                key=f"parallel.{name}", value=str(device), what=what, fix=fix, related=("parallel.zero_stage",)
            )


def _offloading_in_file(node: DeepSpeed, given: dict[str, Any]) -> Iterator[Problem]:
    if node.nvme_path is not None:
        what = "is not read with parallel.config, whose zero_optimization.offload_*.nvme_path counts"
        yield Problem(key="parallel.nvme_path", value=node.nvme_path, what=what, fix="parallel.nvme_path=null")
    zero = deepspeed.read_zero(given)
    for name in ("offload_optimizer", "offload_param"):
        if zero.fields.get(name) != "nvme":
            continue
        section = f"zero_optimization.{name}"
        if zero.fields["zero_stage"] != 3:
            what = f"{section}.device=nvme needs zero_optimization.stage 3"
            yield Problem(key="parallel.config", value=given, what=what)
        if zero.rest.get(f"{name}.fast_init"):
            what = f"{section}.fast_init=true starts from wrong weights where a partition is no multiple of 512 bytes"
            yield Problem(key="parallel.config", value=given, what=what)
        if zero.fields.get("nvme_path", zero.rest.get(f"{name}.nvme_path")) in (None, deepspeed.AUTO):
            what = f"{section}.nvme_path is not given: a directory on a disk of each machine's own"
            yield Problem(key="parallel.config", value=given, what=what)


def deepspeed_file(config: Config) -> Iterator[Problem]:
    """A user's JSON says nothing else than this config; every conflict is a line. Its path is read by inline.py."""
    node, key = config.parallel, "parallel.config"
    if not isinstance(node, DeepSpeed) or node.config is None:
        return
    if not isinstance(node.config, dict):
        yield Problem(key=key, value=node.config, what="is not a DeepSpeed JSON", allowed="a path, a mapping or null")
        return
    for conflict in deepspeed.conflicts(node.config, config):
        yield Problem(key=key, value=node.config, what=str(conflict))


RULES = (mesh, cut_sequences, wrapping, offloading, deepspeed_file)
