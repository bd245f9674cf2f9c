"""Rules of `parallel`: meshes, wrapping, offloading, a user's DeepSpeed JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ...errors import Problem
from .. import deepspeed
from ..config import Config
from ..deepspeed import OFFLOAD
from ..parallel import FSDP, DeepSpeed, Mesh, OffloadDevice, WrapPolicy
from .sentences import excludes, needs, outside, unread, wrong

JSON = "parallel.config"


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
    product = math.prod(max(1, size) for size in given.values())
    if product != ranks if len(given) == len(sizes) else ranks % product:
        words = " x ".join(f"{name} {size}" for name, size in given.items())
        what = f"{words} = {product} does not {'make up' if len(given) == len(sizes) else 'divide'} {ranks} ranks"
        yield wrong("parallel", ..., what, fix=f"launch.nproc_per_node={product}", related=related)


def cut_sequences(config: Config) -> Iterator[Problem]:
    """Nothing that needs whole sequences goes with cp_size: it would take a part for the whole."""
    node, key = config.parallel, "parallel.cp_size"
    if not isinstance(node, Mesh) or node.cp_size <= 1:
        return
    liger = config.compile.use_liger_kernel and config.compile.liger_kernel_config.get(
        "fused_linear_cross_entropy", True
    )
    for other, is_wrong, why, fix in (
        ("compile.torch_compile", config.compile.is_enabled(), "its attention is exchanged in each call", "false"),
        ("compile.use_liger_kernel", liger, "its fused loss is one of whole sequences", "false"),
        (
            "train.neftune_noise_alpha",
            config.train.neftune_noise_alpha is not None,
            "the noise's size depends on the sequence's length",
            "null",
        ),
    ):
        if is_wrong:
            yield excludes(key, node.cp_size, other, why=why, fix=f"{other}={fix}")


def wrapping(config: Config) -> Iterator[Problem]:
    """Each policy of wrapping has an option of its own."""
    node, key = config.parallel, "parallel.auto_wrap_policy"
    if not isinstance(node, FSDP):
        return
    by_size = node.auto_wrap_policy is WrapPolicy.SIZE_BASED_WRAP
    if node.min_num_params and not by_size:
        yield unread("parallel.min_num_params", node.min_num_params, f"{key}=SIZE_BASED_WRAP")
    if by_size and not node.min_num_params:
        fix = "parallel.min_num_params=100000000"
        yield needs(key, str(node.auto_wrap_policy), "parallel.min_num_params", fix=fix)
    layers = node.transformer_layer_cls_to_wrap
    if layers and node.auto_wrap_policy is not WrapPolicy.TRANSFORMER_BASED_WRAP:
        yield unread("parallel.transformer_layer_cls_to_wrap", layers, f"{key}=TRANSFORMER_BASED_WRAP")


def offloading(config: Config) -> Iterator[Problem]:
    """There is something to offload, and a place on disk where that is meant."""
    node = config.parallel
    if not isinstance(node, DeepSpeed):
        return
    if isinstance(node.config, dict):
        yield from _offloading_in_json(node, node.config)
        return
    nvme = [name for name in OFFLOAD if getattr(node, name) is OffloadDevice.nvme]
    if nvme and node.nvme_path is None:
        what = f"is needed by parallel.{nvme[0]}=nvme: a directory on a disk of each machine's own"
        yield wrong("parallel.nvme_path", None, what, fix="parallel.nvme_path=/local_nvme")
    if node.nvme_path is not None and not nvme:
        other = "parallel.offload_param=nvme or parallel.offload_optimizer=nvme"
        yield unread("parallel.nvme_path", node.nvme_path, other, fix="parallel.nvme_path=null")
    for name in OFFLOAD:
        device = getattr(node, name)
        least = 1 if name == "offload_optimizer" and device is not OffloadDevice.nvme else 3
        if device is not OffloadDevice.none and node.zero_stage < least:
            other, fix = f"parallel.zero_stage {least} or more", f"parallel.zero_stage={max(2, least)}"
            yield needs(f"parallel.{name}", str(device), other, fix=fix)


def _offloading_in_json(node: DeepSpeed, given: dict[str, Any]) -> Iterator[Problem]:
    if node.nvme_path is not None:
        what = "is not read with parallel.config, which has zero_optimization.offload_*.nvme_path"
        yield wrong("parallel.nvme_path", node.nvme_path, what, fix="parallel.nvme_path=null")
    zero = deepspeed.read_zero(given)
    for name in OFFLOAD:
        if zero.fields.get(name) != OffloadDevice.nvme:
            continue
        section = f"zero_optimization.{name}"
        if zero.fields["zero_stage"] != 3:
            yield wrong(JSON, given, f"{section}.device=nvme needs zero_optimization.stage 3")
        if zero.rest.get(f"{name}.fast_init"):
            what = "starts from wrong weights where a partition is not a multiple of 512 bytes"
            yield wrong(JSON, given, f"{section}.fast_init=true {what}")
        if zero.fields.get("nvme_path", zero.rest.get(f"{name}.nvme_path")) in (None, deepspeed.AUTO):
            yield wrong(JSON, given, f"{section}.nvme_path is not given: a directory on a disk of each machine's own")


def deepspeed_json(config: Config) -> Iterator[Problem]:
    """A user's JSON agrees with this config; every conflict is a line. config/inline.py has read the file."""
    node = config.parallel
    if not isinstance(node, DeepSpeed) or node.config is None:
        return
    if not isinstance(node.config, dict):
        yield outside(JSON, node.config, "is not a DeepSpeed JSON", "a path, a mapping or null")
        return
    for conflict in deepspeed.conflicts(node.config, config):
        yield wrong(JSON, node.config, str(conflict))


RULES = (mesh, cut_sequences, wrapping, offloading, deepspeed_json)
