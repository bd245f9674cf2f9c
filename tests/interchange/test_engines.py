"""DeepSpeed's and Accelerate's files, of the kinds that other projects publish, in our words and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.cli import main
from trainer.config.composer import Composition, compose
from trainer.interchange import accelerate, deepspeed
from trainer.schema.deepspeed import autos, effective, passed_on, read_zero, write_zero
from trainer.schema.parallel import DeepSpeed, OffloadDevice

Compose = Callable[..., Composition]
AUTO = "auto"
FP16 = {"enabled": AUTO, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2}
BATCH = dict.fromkeys(
    ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu"), AUTO
)
OFFLOAD = {"device": "cpu", "pin_memory": True}
TRANSFORMERS: dict[str, Any] = {
    "fp16": FP16,
    "bf16": {"enabled": AUTO},
    "optimizer": {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), AUTO)},
    "scheduler": {
        "type": "WarmupLR",
        "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), AUTO),
    },
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": OFFLOAD,
        "offload_param": OFFLOAD,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": AUTO,
        "stage3_prefetch_bucket_size": AUTO,
        "stage3_param_persistence_threshold": AUTO,
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    **BATCH,
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}
"""As in transformers' documentation."""
AXOLOTL: dict[str, Any] = {
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 0,
        "reduce_bucket_size": AUTO,
        "prefetch_bucket_size": AUTO,
        "param_persistence_threshold": AUTO,
        "max_live_parameters": 0,
        "max_reuse_distance": 0,
        "gather_16bit_weights_on_model_save": True,
    },
    "bf16": {"enabled": True},
    **BATCH,
    "wall_clock_breakdown": False,
}
"""As axolotl's: stage 3's names without their prefix."""
MEGATRON: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 8,
    "train_batch_size": 64,
    "gradient_clipping": 0.5,
    "zero_optimization": {"stage": 1},
    "fp16": FP16 | {"enabled": False},
    "optimizer": {"type": "Adam", "params": {"lr": 1e-4, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 50, "total_num_steps": 400}},
    "activation_checkpointing": {"partition_activations": False},
    "comms_logger": {"enabled": False},
}
"""As Megatron-DeepSpeed's launch scripts write them: every number given."""


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    return path


def lines(composition: Composition) -> str:
    return "\n".join(map(str, composition.problems))


@pytest.mark.parametrize(
    ("content", "option", "settings"),
    [
        (TRANSFORMERS, "zero3", {"parallel.offload_param": "cpu", "parallel.overlap_comm": True}),
        (AXOLOTL, "deepspeed", {"parallel.config": ...}),
        (
            MEGATRON,
            "deepspeed",
            {"launch.nproc_per_node": 2, "optim.adam_beta2": 0.95, "train.max_steps": 400, "train.max_grad_norm": 0.5},
        ),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8, "allgather_bucket_size": 5e8}}, "zero2", {}),
        ({"zero_optimization": {"stage": 0}}, "zero0", {}),
    ],
)
def test_deepspeed_files_become_experiments(
    content: dict[str, Any], option: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "ds.json", content)
    result = deepspeed.incoming(file)
    assert result.choices["parallel"] == option
    for key, value in settings.items():
        assert key in result.settings
        assert value in (..., result.settings[key])
    assert main(["import", "deepspeed", str(file)]) == 0, capsys.readouterr().err
    assert "override /parallel" in capsys.readouterr().out


@pytest.mark.parametrize("content", [TRANSFORMERS, AXOLOTL, MEGATRON], ids=["transformers", "axolotl", "megatron"])
def test_auto_never_reaches_deepspeed(content: dict[str, Any]) -> None:
    for width in (None, 64):
        passed = passed_on(content, width)
        assert not list(autos(passed))
        if content is not MEGATRON and width:
            zero = passed["zero_optimization"]
            assert zero["reduce_bucket_size"] == 4096
            assert zero["stage3_prefetch_bucket_size"] == 3686
            assert zero["stage3_param_persistence_threshold"] == 640


def test_every_conflict_of_a_file_is_a_line_with_both_values(tmp_path: Path) -> None:
    file = write(tmp_path / "ds.json", MEGATRON | {"bf16": {"enabled": True}, "elasticity": {"enabled": True}})
    text = lines(compose(["parallel=deepspeed", f"parallel.config={file}", "launch.nproc_per_node=4", "optim=sgd"]))
    for expected in (
        "gradient_accumulation_steps=8 but train.gradient_accumulation_steps=1",
        "gradient_clipping=0.5 but train.max_grad_norm=1.0",
        "train_batch_size=64 but train.per_device_train_batch_size x train.gradient_accumulation_steps x ranks=16",
        "bf16.enabled=true but precision.bf16=false",
        'optimizer.type="Adam" but optim._target_=torch.optim.SGD',
        "optimizer.params.lr=0.0001 but optim.learning_rate=",
        "scheduler.params.warmup_num_steps=50 but scheduler.warmup_steps=0",
        "scheduler.params.total_num_steps=400 but train.max_steps=",
        "this trainer's loop does not do that",
    ):
        assert expected in text
    assert all(line.startswith(f"parallel.config={file} (command line): ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"{", "is not valid JSON: line 1"),
        (b"[1]", "is not a JSON object"),
        (b"\xff\x80", "is not UTF-8 text"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, "is nested deeper than 50 levels"),
        (b"[" * 100_000, "is nested deeper than 50 levels"),
        (b" " * (1 << 21) + b"{}", "is longer than 1048576 bytes"),
    ],
)
def test_what_is_no_deepspeed_file(content: bytes, what: str, tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_bytes(content)
    assert what in lines(compose(["parallel=deepspeed", f"parallel.config={file}"]))
    assert "No such file" in lines(compose(["parallel=deepspeed", f"parallel.config={tmp_path}/none.json"]))


def test_a_files_content_is_part_of_the_config(tmp_path: Path) -> None:
    """So an edited file is another config, and a queued job or a resumed run has the one that it was given."""
    file = write(tmp_path / "ds.json", {"zero_optimization": {"stage": 3}, "steps_per_print": 7})
    overrides = ["parallel=deepspeed", f"parallel.config={file}"]
    before = compose(overrides)
    assert before.config
    assert before.config.parallel.config == {"zero_optimization": {"stage": 3}, "steps_per_print": 7}
    assert before.cfg.parallel.config.zero_optimization.stage == 3
    mapping = compose(
        ["parallel=deepspeed", "parallel.config={zero_optimization:{stage:3}}", "parallel.config.steps_per_print=7"]
    )
    assert mapping.config
    assert mapping.config.parallel == before.config.parallel
    write(file, {"zero_optimization": {"stage": 3}, "steps_per_print": 8})
    after = compose(overrides)
    nodes = [composition.config.parallel for composition in (before, mapping, after) if composition.config]
    assert nodes[0] == nodes[1] != nodes[2]
    assert "parallel.config=3 (command line): is not a DeepSpeed JSON" in lines(
        compose([overrides[0], "parallel.config=3"])
    )


def test_where_a_files_path_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ds.json", {"gradient_clipping": 0.5})
    (tmp_path / "conf/experiment").mkdir(parents=True)
    recipe = "# @package _global_\ndefaults:\n  - override /parallel: deepspeed\nparallel:\n  config: ds.json\n"
    (tmp_path / "conf/experiment/mine.yaml").write_text(recipe)
    said = "parallel.config=ds.json (conf/experiment/mine.yaml:5): "
    assert lines(compose(["experiment=mine"])) == said + "gradient_clipping=0.5 but train.max_grad_norm=1.0"
    (tmp_path / "ds.json").unlink()
    assert lines(compose(["experiment=mine"])) == said + "No such file or directory"


def test_the_plan_is_of_the_files_stage() -> None:
    content = {"stage": 3, "offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": AUTO}
    node = effective(DeepSpeed(config={"zero_optimization": content}))
    assert (node.zero_stage, node.offload_optimizer, node.reduce_bucket_size) == (3, "cpu", 500_000_000)


def test_what_a_section_says_is_sorted_into_our_fields_and_the_rest() -> None:
    nvme = {"device": "nvme", "nvme_path": "/fast", "buffer_count": 4}
    content = {"stage": 3, "prefetch_bucket_size": 1000, "offload_optimizer": nvme, "offload_param": {"device": "cpu"}}
    section = read_zero({"zero_optimization": content})
    fields = {"zero_stage": 3, "offload_optimizer": "nvme", "offload_param": "cpu", "nvme_path": "/fast"}
    assert section.fields == fields
    assert section.rest == {"stage3_prefetch_bucket_size": 1000, "offload_optimizer.buffer_count": 4}
    other = {"device": "nvme", "nvme_path": "/slow"}
    section = read_zero({"zero_optimization": {**content, "offload_param": other}})
    assert "nvme_path" not in section.fields
    assert section.rest["offload_param.nvme_path"] == "/slow"


def test_fields_written_as_a_section_are_read_back() -> None:
    node = DeepSpeed(zero_stage=3, overlap_comm=True, offload_optimizer=OffloadDevice.nvme, nvme_path="/fast")
    assert effective(DeepSpeed(config={"zero_optimization": write_zero(node)})) == replace(
        node, config={"zero_optimization": write_zero(node)}
    )


@pytest.mark.parametrize(
    ("older", "field"), [("cpu_offload", "offload_optimizer"), ("cpu_offload_param", "offload_param")]
)
def test_older_switches_of_offloading_are_understood(older: str, field: str) -> None:
    node = effective(DeepSpeed(config={"zero_optimization": {"stage": 3, older: True}}))
    assert getattr(node, field) is OffloadDevice.cpu


ROUND: list[list[str]] = [
    ["parallel=zero1", "optim=adamw"],
    [
        "parallel=zero2_offload",
        "precision=bf16",
        "train.gradient_accumulation_steps=3",
        "launch.nproc_per_node=2",
        "optim=adamw",
    ],
    ["parallel=zero3_offload", "parallel.overlap_comm=true", "optim=adam", "optim.learning_rate=0.01"],
    [
        "parallel=zero3",
        "optim=adamw",
        "train.max_steps=90",
        "scheduler=linear",
        "scheduler.warmup_steps=5",
        "train.max_grad_norm=0.1",
    ],
]


def exported(capsys: pytest.CaptureFixture[str], kind: str, overrides: list[str]) -> Any:
    assert main(["export", kind, *overrides]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    return json.loads(out) if kind == "deepspeed" else yaml.safe_load(out)


def again(result: Any) -> list[str]:
    choices = [f"{group}={option}" for group, option in result.choices.items()]
    return choices + [f"{key}={json.dumps(value)}" for key, value in result.settings.items()]


@pytest.mark.parametrize("overrides", ROUND, ids=lambda o: o[0])
def test_deepspeed_round_trip(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = exported(capsys, "deepspeed", overrides)
    assert not list(autos(content))
    back = again(deepspeed.incoming(write(tmp_path / "ds.json", content)))
    there = compose(overrides).config
    here = compose([*back, *[o for o in overrides if o.startswith("scheduler")][:1]]).config
    assert there is not None
    assert here is not None
    assert (here.parallel, here.precision, here.optim) == (there.parallel, there.precision, there.optim)
    assert here.train == there.train
    # and as a user's own file it contradicts nothing
    file = tmp_path / "ds.json"
    others = [o for o in overrides if not o.startswith("parallel")]
    assert not compose(["parallel=deepspeed", f"parallel.config={file}", *others]).problems


def test_only_deepspeed_is_exported_as_deepspeed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "deepspeed", "parallel=ddp"]) == 2
    assert "parallel (command line): is not DeepSpeed; fix: parallel=zero2" in capsys.readouterr().err


COMMON: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE", "debug": False, "downcast_bf16": "no", "machine_rank": 0,
    "main_training_function": "main", "num_machines": 1, "num_processes": 8, "rdzv_backend": "static",
    "same_network": True, "tpu_env": [], "tpu_use_cluster": False, "tpu_use_sudo": False, "use_cpu": False,
    "enable_cpu_affinity": False,
}  # fmt: skip
FSDP_1 = {
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_backward_prefetch": "BACKWARD_PRE",
    "fsdp_cpu_ram_efficient_loading": True, "fsdp_forward_prefetch": False, "fsdp_offload_params": False,
    "fsdp_sharding_strategy": "SHARD_GRAD_OP", "fsdp_state_dict_type": "SHARDED_STATE_DICT",
    "fsdp_sync_module_states": True, "fsdp_use_orig_params": True, "fsdp_activation_checkpointing": True,
    "fsdp_transformer_layer_cls_to_wrap": "Block,Other",
}  # fmt: skip
FSDP_2 = {
    "fsdp_version": 2, "fsdp_reshard_after_forward": True, "fsdp_offload_params": False,
    "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_cpu_ram_efficient_loading": True,
    "fsdp_state_dict_type": "SHARDED_STATE_DICT", "fsdp_activation_checkpointing": False,
}  # fmt: skip
ZERO = {
    "deepspeed_multinode_launcher": "standard", "gradient_accumulation_steps": 2, "offload_optimizer_device": "none",
    "offload_param_device": "none", "zero3_init_flag": True, "zero3_save_16bit_model": True, "zero_stage": 3,
}  # fmt: skip
HYBRID = FSDP_1 | {"fsdp_sharding_strategy": 4}
SIZES = {f"parallelism_config_{k}": v for k, v in
         {"dp_replicate_size": 2, "dp_shard_size": 2, "tp_size": 2, "cp_size": 1}.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "section", "option", "settings", "remark"),
    [
        ("NO", {}, "single", {}, ""),
        ("MULTI_GPU", {"gpu_ids": "all"}, "ddp", {"launch.nproc_per_node": 8}, ""),
        (
            "FSDP",
            {"fsdp_config": FSDP_1},
            "fsdp",
            {
                "parallel.reshard_after_forward": False,
                "parallel.transformer_layer_cls_to_wrap": ["Block", "Other"],
                "memory.activation_checkpointing": True,
            },
            "fsdp_backward_prefetch=BACKWARD_PRE: belongs to FSDP1; FSDP2 prefetches by itself",
        ),
        ("FSDP", {"fsdp_config": HYBRID}, "fsdp_hybrid", {"parallel.reshard_after_forward": True}, "is FSDP2"),
        ("FSDP", {"fsdp_config": FSDP_2}, "fsdp", {"parallel.cpu_ram_efficient_loading": True}, ""),
        (
            "FSDP",
            {"fsdp_config": FSDP_2, "parallelism_config": SIZES},
            "mesh",
            {"parallel.tp_size": 2, "parallel.dp_replicate_size": 2},
            "",
        ),
        ("DEEPSPEED", {"deepspeed_config": ZERO}, "zero3", {"train.gradient_accumulation_steps": 2}, "zero3_init_flag"),
    ],
)
def test_accelerate_files_become_experiments(
    kind: str,
    section: dict[str, Any],
    option: str,
    settings: dict[str, Any],
    remark: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / "acc.yaml", COMMON | {"distributed_type": kind, "mixed_precision": "bf16"} | section)
    result = accelerate.incoming(file)
    assert result.choices["parallel"] == option
    assert settings.items() <= result.settings.items()
    assert result.choices["precision"] == "bf16"
    assert any(remark in said for said in result.remarks) if remark else not result.remarks
    assert main(["import", "accelerate", str(file)]) == 0, capsys.readouterr().err


def test_accelerate_with_a_deepspeed_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "ds.json", TRANSFORMERS)
    section = {"deepspeed_config": {"deepspeed_config_file": "ds.json", "zero3_init_flag": True}}
    file = write(tmp_path / "acc.yaml", COMMON | {"distributed_type": "DEEPSPEED"} | section)
    assert accelerate.incoming(file).settings["parallel.offload_param"] == "cpu"


def test_accelerates_other_engines_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "acc.yaml", COMMON | {"distributed_type": "MEGATRON_LM"})
    assert main(["import", "accelerate", str(file)]) == 2
    assert "there is no such engine here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel=ddp", "launch.nproc_per_node=2", "precision=bf16"],
        ["parallel=fsdp", "launch.nproc_per_node=2", "memory.activation_checkpointing=true"],
        ["parallel=fsdp_grad_op", "launch.nproc_per_node=2", "parallel.transformer_layer_cls_to_wrap=[A,B]"],
        ["parallel=fsdp", "parallel.auto_wrap_policy=SIZE_BASED_WRAP", "parallel.min_num_params=1000"],
        ["parallel=mesh", "parallel.tp_size=2", "parallel.dp_shard_size=2", "launch.nproc_per_node=4"],
        ["parallel=mesh", "parallel.cp_size=2", "parallel.dp_shard_size=2", "launch.nproc_per_node=4"],
        ["parallel=zero2_offload", "launch.nproc_per_node=2", "train.max_grad_norm=0.2"],
    ],
    ids=lambda o: " ".join(o[:1]),
)
def test_accelerate_round_trip(overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = exported(capsys, "accelerate", [*overrides, "run.use_cpu=false"])
    result = accelerate.incoming(write(tmp_path / "acc.yaml", content))
    assert not result.remarks
    there, here = compose(overrides).config, compose(again(result)).config
    assert there is not None
    assert here is not None
    assert here.parallel == there.parallel
    assert (here.precision, here.memory, here.train) == (there.precision, there.memory, there.train)


def test_accelerate_takes_no_content_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "accelerate", "parallel=deepspeed", "parallel.config={steps_per_print:7}"]) == 0
    captured = capsys.readouterr()
    assert yaml.safe_load(captured.out)["deepspeed_config"]["deepspeed_config_file"] == "ds_config.json"
    assert "`trainer export deepspeed ... > ds_config.json`" in captured.err


def test_accelerate_reads_what_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_args = pytest.importorskip("accelerate.commands.config.config_args")
    for overrides in (["parallel=ddp"], ["parallel=fsdp"], ["parallel=zero3"], ["parallel=single"]):
        file = write(tmp_path / "acc.yaml", exported(capsys, "accelerate", overrides))
        loaded = config_args.ClusterConfig.from_yaml_file(str(file))
        assert loaded.num_processes == 1
