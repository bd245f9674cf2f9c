"""Rules of single sections: each breaks in one line and holds on its own cure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.config.composer import Composition

Compose = Callable[..., Composition]

KWARGS = "memory.activation_checkpointing_kwargs"
ON = "memory.activation_checkpointing=true"

CASES: list[tuple[list[str], str, str]] = [
    (
        ["compile.torch_compile=false", "compile.torch_compile_backend=eager"],
        "excludes compile.torch_compile=false",
        "compile.torch_compile=true",
    ),
    (
        ["compile.torch_compile_backend=nvfuser"],
        "no such backend; allowed: inductor, eager",
        "compile.torch_compile_backend=eager",
    ),
    (
        ["compile.torch_compile_mode=fast"],
        "no such mode; allowed: default, reduce-overhead",
        "compile.torch_compile_mode=default",
    ),
    (
        ["compile.torch_compile_backend=eager", "compile.torch_compile_mode=max-autotune"],
        "is a mode of inductor, not of eager",
        "compile.torch_compile_mode=null",
    ),
    ([f"{KWARGS}={{offload: true}}"], "needs memory.activation_checkpointing=true", ON),
    (
        [ON, f"{KWARGS}={{every_n: 2}}"],
        "there is no option every_n; allowed: every_n_layers",
        f"{KWARGS}={{every_n_layers: 2}}",
    ),
    ([ON, f"{KWARGS}={{every_n_layers: 0}}"], "a whole number, at least 1", f"{KWARGS}={{every_n_layers: 1}}"),
    ([ON, f"{KWARGS}={{offload: 1}}"], "offload=1; allowed: true, false", f"{KWARGS}={{offload: true}}"),
    ([ON, "memory.use_cache=true"], "excludes memory.activation_checkpointing=true", "memory.use_cache=false"),
    (["memory.torch_empty_cache_steps=0"], "allowed: at least 1", "memory.torch_empty_cache_steps=1"),
    (
        ["precision.bf16_full_eval=true", "precision.fp16_full_eval=true"],
        "excludes precision.fp16_full_eval=true",
        "precision.fp16_full_eval=false",
    ),
    (["parallel=fsdp", "precision.bf16_full_eval=true"], "sharded over the ranks", "parallel=ddp"),
    (["run.debug=overflow"], "there is no overflow; allowed: underflow_overflow", "run.debug=underflow_overflow"),
    (
        ["run.debug=underflow_overflow", "compile.torch_compile=true"],
        "sees no module of a compiled model",
        "compile.torch_compile=false",
    ),
    (["train.label_smoothing_factor=2"], "is out of range", "train.label_smoothing_factor=0.1"),
    (
        ["experiment=digits", "task=regression", "train.label_smoothing_factor=0.1"],
        "needs a task with classes",
        "task=classification",
    ),
    (["train.neftune_noise_alpha=0"], "allowed: above 0", "train.neftune_noise_alpha=5"),
    (["data.dataloader_in_order=false"], "needs worker processes", "data.dataloader_num_workers=2"),
    (
        ["data.dataloader_in_order=false", "data.dataloader_num_workers=1", "run.full_determinism=true"],
        "excludes run.full_determinism=true",
        "data.dataloader_in_order=true",
    ),
    (
        ["train.auto_find_batch_size=true", "checkpoint.async_save=true"],
        "excludes checkpoint.async_save=true",
        "checkpoint.async_save=false",
    ),
    (["data.label_names=[]"], "names no key", "data.label_names=null"),
    (
        ["checkpoint.save_on_each_node=true"],
        "on a file system that all nodes share",
        "checkpoint.save_on_each_node=false",
    ),
]


@pytest.mark.parametrize(("overrides", "line", "cure"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_rule(compose: Compose, overrides: list[str], line: str, cure: str) -> None:
    found = [str(p) for p in compose(*overrides).problems]
    assert len(found) == 1, found
    assert line in found[0]
    cured = {o.partition("=")[0]: o for o in [*overrides, cure]}
    assert not compose(*cured.values()).problems


def test_kernels_can_be_chosen_only_with_the_kernels(compose: Compose) -> None:
    assert len(compose("compile.liger_kernel_config={rope: true}").problems) == 1
