"""Accelerate's YAML (`accelerate config`) as an experiment of ours, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.files import read
from ..errors import ConfigError, Problem, show
from ..schema import Config
from ..schema.parallel import DDP, FSDP, DeepSpeed, Mesh, OffloadDevice, Single
from . import deepspeed
from .experiment import Experiment

FILE = "ds_config.json"
"""Where Accelerate looks for a DeepSpeed JSON, beside the command that it launches."""
SHARDING = {1: "FULL_SHARD", 2: "SHARD_GRAD_OP", 3: "NO_SHARD", 4: "HYBRID_SHARD", 5: "HYBRID_SHARD_ZERO2"}
"""FSDP1's strategies by Accelerate's older numbers."""
FSDP1_ONLY = {
    "backward_prefetch": "FSDP2 prefetches by itself",
    "forward_prefetch": "FSDP2 prefetches by itself",
    "use_orig_params": "FSDP2 always does",
    "sync_module_states": "every engine starts from rank 0's weights",
    "limit_all_gathers": "FSDP2 needs none",
}
LAUNCHER = (
    "machine_rank", "main_process_ip", "main_process_port", "rdzv_backend", "same_network", "gpu_ids", "debug",
    "main_training_function", "compute_environment", "downcast_bf16", "tpu_env", "tpu_use_cluster", "tpu_use_sudo",
    "enable_cpu_affinity", "num_machines", "num_processes", "distributed_type", "mixed_precision", "use_cpu",
    "fsdp_config", "deepspeed_config", "parallelism_config", "dynamo_config", "mpirun_config", "fp8_config",
    "tpu_name", "tpu_zone", "commands", "command_file", "megatron_lm_config", "ipex_config", "dynamo_backend",
)  # fmt: skip
SIZES = ("dp_replicate_size", "dp_shard_size", "cp_size", "tp_size")


def incoming(path: Path) -> Experiment:
    """What the file says, in our words. Raises ConfigError where it is not a file of Accelerate's."""
    given = dict(read(path).content or {})
    kind = str(given.get("distributed_type", "NO")).rpartition(".")[2].upper()
    result = Experiment()
    if kind in ("NO",):
        result.choices["parallel"] = "single"
    elif kind.startswith("MULTI_"):
        result.choices["parallel"] = "ddp"
    elif kind == "FSDP":
        _fsdp(_section(given, "fsdp_config"), result)
    elif kind == "DEEPSPEED":
        _deepspeed(_section(given, "deepspeed_config"), path, result)
    else:
        raise ConfigError(
            [Problem(key=f"distributed_type={kind}", what="there is no such engine here", origin=str(path))]
        )
    _mesh(_section(given, "parallelism_config"), kind, result)
    ranks, machines = int(given.get("num_processes") or 1), int(given.get("num_machines") or 1)
    if kind != "NO":
        result.settings["launch.nproc_per_node"] = max(1, ranks // machines)
    if machines > 1:
        result.settings["launch.nnodes"] = machines
        result.remarks.append(f"num_machines={machines}: start it on each by torchrun, or with cluster=slurm")
    precision = str(given.get("mixed_precision") or "no").lower()
    if precision in ("bf16", "fp16"):
        result.choices["precision"] = precision
    elif precision != "no":
        result.remarks.append(f"mixed_precision={precision}: precision is fp32, tf32, bf16 or fp16")
    if given.get("use_cpu") is True or kind == "MULTI_CPU":
        result.settings["run.use_cpu"] = True
    _dynamo(_section(given, "dynamo_config"), result)
    for key in given.keys() - set(LAUNCHER):
        result.remarks.append(f"{key}={show(given[key])}: has no equivalent")
    return result


def _section(given: dict[str, Any], name: str) -> dict[str, Any]:
    """A section, its keys without the prefix that each of them has."""
    prefix = name.removesuffix("_config") + "_"
    whole = f"{name}_" if name == "parallelism_config" else prefix
    section = given.get(name)
    return {k.removeprefix(whole): v for k, v in section.items()} if isinstance(section, dict) else {}


def _fsdp(given: dict[str, Any], result: Experiment) -> None:
    version = int(given.pop("version", 1))
    result.choices["parallel"] = "fsdp"
    settings: dict[str, Any] = {}
    strategy = given.pop("sharding_strategy", None)
    reshard = given.pop("reshard_after_forward", strategy)
    if version == 1:
        result.remarks.append("fsdp_version=1: parallel=fsdp is FSDP2, which computes the same")
        name = SHARDING.get(reshard, str(reshard or "FULL_SHARD")).upper()
        if name == "NO_SHARD":
            result.choices["parallel"] = "ddp"
            result.remarks.append("fsdp_sharding_strategy=NO_SHARD: is parallel=ddp")
            return
        if name.startswith("HYBRID"):
            result.choices["parallel"] = "fsdp_hybrid"
        reshard = name in ("FULL_SHARD", "HYBRID_SHARD", "TRUE")
    if reshard is not None:
        settings["reshard_after_forward"] = str(reshard).lower() in ("true", "full_shard")
    if given.pop("activation_checkpointing", False):
        result.settings["memory.activation_checkpointing"] = True
    settings["cpu_offload"] = bool(given.pop("cpu_offload", given.pop("offload_params", False)))
    given.pop("offload_params", None)
    if wrap := given.pop("transformer_layer_cls_to_wrap", None):
        settings["transformer_layer_cls_to_wrap"] = wrap.split(",") if isinstance(wrap, str) else wrap
    policy = given.pop("auto_wrap_policy", None)
    if policy is not None:
        settings["auto_wrap_policy"] = str(policy).upper()
    for name, value in given.items():
        if name in ("min_num_params", "cpu_ram_efficient_loading"):
            settings[name] = value
        elif name in FSDP1_ONLY:
            if version == 1:
                result.remarks.append(f"fsdp_{name}={show(value)}: belongs to FSDP1; {FSDP1_ONLY[name]}")
        elif name == "state_dict_type":
            if value != "SHARDED_STATE_DICT":
                result.remarks.append(f"fsdp_{name}={value}: checkpoints are sharded; model/ holds the whole weights")
        else:
            result.remarks.append(f"fsdp_{name}={show(value)}: has no equivalent")
    if not settings.get("min_num_params"):
        settings.pop("min_num_params", None)
    result.settings |= {f"parallel.{name}": value for name, value in settings.items()}


def _deepspeed(given: dict[str, Any], path: Path, result: Experiment) -> None:
    if file := given.pop("config_file", None) or given.pop("deepspeed_config_file", None):
        found = deepspeed.incoming(path.parent / Path(file).expanduser())
        result.choices |= found.choices
        result.settings |= found.settings
        result.remarks += found.remarks
        return
    result.choices["parallel"] = f"zero{given.pop('zero_stage', 2)}"
    for name, key in (
        ("offload_optimizer_device", "parallel.offload_optimizer"),
        ("offload_param_device", "parallel.offload_param"),
        ("offload_optimizer_nvme_path", "parallel.nvme_path"),
        ("offload_param_nvme_path", "parallel.nvme_path"),
        ("gradient_accumulation_steps", "train.gradient_accumulation_steps"),
        ("gradient_clipping", "train.max_grad_norm"),
    ):
        value = given.pop(name, None)
        if value is not None and not (name.endswith("_path") and value == "none"):
            result.settings[key] = value
    for name, value in given.items():
        if name == "zero3_init_flag" and value:
            result.remarks.append(
                "zero3_init_flag=true: models are built whole and sharded afterwards, to the same numbers"
            )
        elif name not in ("zero3_init_flag", "zero3_save_16bit_model", "multinode_launcher", "hostfile"):
            result.remarks.append(f"deepspeed_config.{name}={show(value)}: has no equivalent")


def _mesh(given: dict[str, Any], kind: str, result: Experiment) -> None:
    sizes = {name: int(given.get(name) or 1) for name in SIZES}
    for name in given.keys() - {*SIZES, "cp_comm_strategy", "cp_backend"}:
        if given[name] not in (None, 1):
            result.remarks.append(f"parallelism_config_{name}={show(given[name])}: has no equivalent")
    if kind == "FSDP" and any(size > 1 for name, size in sizes.items() if name != "dp_shard_size"):
        result.choices["parallel"] = "mesh"
        result.settings |= {f"parallel.{name}": size for name, size in sizes.items()}
    elif sizes["tp_size"] > 1:  # Accelerate's plain tensor parallelism
        result.choices["parallel"] = "mesh"
        result.settings["parallel.tp_size"] = sizes["tp_size"]
        if sizes["dp_replicate_size"] > 1:
            result.settings |= {"parallel.dp_replicate_size": sizes["dp_replicate_size"], "parallel.dp_shard_size": 1}


def _dynamo(given: dict[str, Any], result: Experiment) -> None:
    backend = str(given.get("backend") or "no").lower()
    if backend == "no":
        return
    result.settings["compile.torch_compile"] = True
    if backend != "inductor":
        result.settings["compile.torch_compile_backend"] = backend
    if given.get("mode") not in (None, "default"):
        result.settings["compile.torch_compile_mode"] = given["mode"]
    for name in ("use_dynamic", "use_fullgraph", "use_regional_compilation"):
        if given.get(name):
            result.remarks.append(f"dynamo_{name}=true: has no equivalent")


def outgoing(config: Config) -> tuple[dict[str, Any], list[str]]:
    """The YAML's content, and what has no place in it."""
    node, launch, remarks = config.parallel, config.launch, []
    ranks = (launch.nproc_per_node or 1) * launch.nnodes
    precision = "bf16" if config.precision.bf16 else "fp16" if config.precision.fp16 else "no"
    out: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "NO",
        "downcast_bf16": "no",
        "machine_rank": 0,
        "main_training_function": "main",
        "mixed_precision": precision,
        "num_machines": launch.nnodes,
        "num_processes": ranks,
        "rdzv_backend": "static",
        "same_network": True,
        "use_cpu": config.run.use_cpu,
    }
    if isinstance(node, Single):
        pass
    elif isinstance(node, DDP):
        out["distributed_type"] = "MULTI_CPU" if config.run.use_cpu else "MULTI_GPU"
    elif isinstance(node, FSDP):
        out["distributed_type"] = "FSDP"
        out["fsdp_config"] = _exported_fsdp(node, checkpointing=config.memory.activation_checkpointing)
        if isinstance(node, Mesh):
            out["parallelism_config"] = _exported_mesh(node, launch.nproc_per_node or 1, ranks)
            if node.tp_plan:
                remarks.append("parallel.tp_plan: Accelerate takes the model's own")
    elif isinstance(node, DeepSpeed):
        out["distributed_type"] = "DEEPSPEED"
        out["deepspeed_config"] = _exported_deepspeed(node, config)
        if node.config is not None:
            remarks.append(f"parallel.config: is a file of its own: `trainer export deepspeed ... > {FILE}`")
    else:
        raise ConfigError([Problem(key="parallel", what="is an engine that Accelerate does not know")])
    if config.compile.torch_compile:
        backend, mode = config.compile.torch_compile_backend or "inductor", config.compile.torch_compile_mode
        out["dynamo_config"] = {"dynamo_backend": backend.upper(), **({"dynamo_mode": mode} if mode else {})}
    return out, remarks


def _exported_fsdp(node: FSDP, *, checkpointing: bool) -> dict[str, Any]:
    section: dict[str, Any] = {
        "fsdp_version": 2,
        "fsdp_reshard_after_forward": node.reshard_after_forward,
        "fsdp_offload_params": node.cpu_offload,
        "fsdp_auto_wrap_policy": str(node.auto_wrap_policy),
        "fsdp_cpu_ram_efficient_loading": node.cpu_ram_efficient_loading,
        "fsdp_activation_checkpointing": checkpointing,
        "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    }
    if node.min_num_params:
        section["fsdp_min_num_params"] = node.min_num_params
    if node.transformer_layer_cls_to_wrap:
        section["fsdp_transformer_layer_cls_to_wrap"] = ",".join(node.transformer_layer_cls_to_wrap)
    return section


def _exported_mesh(node: Mesh, local: int, ranks: int) -> dict[str, int]:
    tp = node.tp_size or local
    inner = node.cp_size * tp
    replicate = node.dp_replicate_size or max(1, ranks // ((node.dp_shard_size or max(1, local // inner)) * inner))
    shard = node.dp_shard_size or max(1, ranks // (replicate * inner))
    sizes = zip(SIZES, (replicate, shard, node.cp_size, tp), strict=True)
    return {f"parallelism_config_{name}": size for name, size in sizes}


def _exported_deepspeed(node: DeepSpeed, config: Config) -> dict[str, Any]:
    if node.config is not None:
        return {"deepspeed_config_file": FILE, "zero3_init_flag": False}
    section: dict[str, Any] = {
        "zero_stage": node.zero_stage,
        "gradient_accumulation_steps": config.train.gradient_accumulation_steps,
        "gradient_clipping": config.train.max_grad_norm,
        "offload_optimizer_device": str(node.offload_optimizer),
        "offload_param_device": str(node.offload_param),
        "zero3_init_flag": False,
        "zero3_save_16bit_model": True,
    }
    for name in ("offload_optimizer", "offload_param"):
        if getattr(node, name) is OffloadDevice.nvme:
            section[f"{name}_nvme_path"] = node.nvme_path
    return section
