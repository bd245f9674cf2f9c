"""Rules about engines: each breaks in one line and holds on its own cure; an option of another engine names it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.config.composer import Composition

CASES: list[tuple[list[str], str, str]] = [
    (
        ["parallel=mesh", "parallel.cp_size=2", "compile.torch_compile_mode=default"],
        "excludes compile.torch_compile",
        "compile.torch_compile_mode=null",
    ),
    (
        ["parallel=mesh", "parallel.cp_size=2", "train.neftune_noise_alpha=5"],
        "excludes train.neftune_noise_alpha: the noise's size depends on the sequence's length",
        "train.neftune_noise_alpha=null",
    ),
    (
        ["parallel=mesh", "parallel.cp_size=2", "compile.use_liger_kernel=true"],
        "excludes compile.use_liger_kernel: its fused loss",
        "compile.use_liger_kernel=false",
    ),
    (
        ["parallel=mesh", "parallel.cp_size=2", "launch.nproc_per_node=3"],
        "dp_replicate_size 1 x cp_size 2 x tp_size 1 = 2 does not divide 3 ranks",
        "launch.nproc_per_node=2",
    ),
    (
        ["parallel=mesh", "parallel.tp_size=3", "launch.nproc_per_node=4"],
        "dp_replicate_size 1 x cp_size 1 x tp_size 3 = 3 does not divide 4 ranks",
        "launch.nproc_per_node=6",
    ),
    (
        ["parallel=mesh", "parallel.tp_size=2", "parallel.dp_shard_size=3", "launch.nproc_per_node=4"],
        "dp_replicate_size 1 x dp_shard_size 3 x cp_size 1 x tp_size 2 = 6 does not make up 4 ranks",
        "launch.nproc_per_node=6",
    ),
    (
        ["parallel=fsdp", "parallel.min_num_params=5"],
        "is only read with parallel.auto_wrap_policy=SIZE_BASED_WRAP",
        "parallel.auto_wrap_policy=SIZE_BASED_WRAP",
    ),
    (
        ["parallel=fsdp", "parallel.auto_wrap_policy=SIZE_BASED_WRAP"],
        "needs parallel.min_num_params",
        "parallel.min_num_params=9",
    ),
    (
        ["parallel=fsdp", "parallel.auto_wrap_policy=NO_WRAP", "parallel.transformer_layer_cls_to_wrap=[Block]"],
        "is only read with parallel.auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        "parallel.auto_wrap_policy=TRANSFORMER_BASED_WRAP",
    ),
    (["parallel=zero1", "parallel.offload_param=cpu"], "needs parallel.zero_stage 3 or more", "parallel.zero_stage=3"),
    (
        ["parallel=zero0", "parallel.offload_optimizer=cpu"],
        "needs parallel.zero_stage 1 or more",
        "parallel.zero_stage=2",
    ),
    (
        ["parallel=zero2", "parallel.offload_optimizer=nvme", "parallel.nvme_path=/fast"],
        "needs parallel.zero_stage 3 or more",
        "parallel.zero_stage=3",
    ),
    (
        [
            "parallel=deepspeed",
            "parallel.config={zero_optimization:{stage:3,offload_optimizer:{device:nvme,nvme_path:/f,fast_init:true}}}",
        ],
        "zero_optimization.offload_optimizer.fast_init=true starts from wrong weights",
        "parallel.config={zero_optimization:{stage:3,offload_optimizer:{device:nvme,nvme_path:/f,fast_init:false}}}",
    ),
    (["parallel=zero_infinity"], "is needed by parallel.offload_optimizer=nvme", "parallel.nvme_path=/fast"),
    (
        ["parallel=deepspeed", "parallel.config={zero_optimization:{stage:3,offload_param:{device:nvme}}}"],
        "zero_optimization.offload_param.nvme_path is not given",
        "parallel.config={zero_optimization:{stage:3,offload_param:{device:nvme,nvme_path:/fast}}}",
    ),
    (
        [
            "parallel=deepspeed",
            "parallel.config={zero_optimization:{stage:2,offload_optimizer:{device:nvme,nvme_path:/fast}}}",
        ],
        "zero_optimization.offload_optimizer.device=nvme needs zero_optimization.stage 3",
        "parallel.config={zero_optimization:{stage:3,offload_optimizer:{device:nvme,nvme_path:/fast}}}",
    ),
    (["parallel=zero2", "parallel.nvme_path=/fast"], "is only read with parallel.offload_param=nvme", "parallel=zero1"),
]


@pytest.mark.parametrize(("overrides", "message", "cure"), CASES, ids=lambda value: str(value)[:60])
def test_rule(compose: Callable[..., Composition], overrides: list[str], message: str, cure: str) -> None:
    wrong = compose(*overrides)
    assert any(message in str(problem) for problem in wrong.problems), wrong.problems
    key = cure.partition("=")[0]
    kept = [o for o in overrides if o.partition("=")[0] != key]
    if key == "parallel":  # another option has none of its fields
        kept = [o for o in kept if not o.startswith("parallel.")]
    assert not compose(*kept, cure).problems


@pytest.mark.parametrize(
    ("overrides", "readers"),
    [
        (["parallel=fsdp", "parallel.ddp_bucket_cap_mb=3"], "parallel=ddp"),
        (["parallel=zero2", "parallel.ddp_find_unused_parameters=true"], "parallel=ddp"),
        (["parallel=ddp", "parallel.reshard_after_forward=false"], "parallel=fsdp or mesh"),
        (["parallel=zero3", "parallel.min_num_params=1"], "parallel=fsdp or mesh"),
        (["parallel=fsdp", "parallel.tp_size=2"], "parallel=mesh"),
        (["parallel=ddp", "parallel.zero_stage=2"], "parallel=deepspeed"),
        (["parallel=single", "parallel.ddp_timeout=5"], "parallel=ddp or fsdp or mesh or deepspeed"),
    ],
)
def test_an_option_of_another_engine_names_it(
    compose: Callable[..., Composition], overrides: list[str], readers: str
) -> None:
    (problem,) = compose(*overrides).problems
    assert f"is read by {readers}, which is not the chosen option" in str(problem)
