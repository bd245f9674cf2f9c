"""What depends on the machine: GPUs, installed packages, paths."""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from trainer.config import machine
from trainer.config.composer import Composition

Compose = Callable[..., Composition]

CASES: list[tuple[list[str], str, str]] = [
    (["parallel=zero2", "precision=fp16", "run.use_cpu=true"], "not supported by DeepSpeed on a CPU", "precision=bf16"),
    (["parallel=fsdp_offload", "run.use_cpu=true"], "needs a GPU", "parallel=fsdp"),
    (
        ["checkpoint.resume_from_checkpoint=nowhere"],
        "no such checkpoint directory",
        "checkpoint.resume_from_checkpoint=auto",
    ),
]


@pytest.mark.parametrize(("overrides", "line", "cure"), CASES, ids=[" ".join(c[0]) for c in CASES])
def test_rule(compose: Compose, overrides: list[str], line: str, cure: str) -> None:
    found = [str(p) for p in compose(*overrides).problems]
    assert len(found) == 1, found
    assert line in found[0]
    given = {o.partition("=")[0]: o for o in [*overrides, cure]}
    assert not compose(*given.values()).problems


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (
            ["parallel=zero3", "logging=[wandb,tensorboard]", "model=hf_causal_lm"],
            ["transformers", "deepspeed", "wandb", "tensorboard"],
        ),
        (["compile.use_liger_kernel=true", "run.debug=tpu_metrics_debug"], ["liger-kernel", "torch_xla"]),
        (["hub.push_to_hub=true", "cluster=ray"], ["'ray[default]'", "huggingface_hub"]),
    ],
)
def test_missing_packages(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, overrides: list[str], names: list[str]
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    lines = [str(p) for p in compose(*overrides).problems]
    assert [line.rpartition("fix: ")[2] for line in lines] == [f"pip install {name}" for name in names]
    assert all("which is not installed" in line for line in lines)
    monkeypatch.setattr(machine, "find_spec", lambda name: ModuleSpec(name, None))
    assert not compose(*overrides).problems


def test_a_checkpoints_path_may_be_given(compose: Compose, tmp_path: Path) -> None:
    assert "holds no checkpoint" in str(compose(f"checkpoint.resume_from_checkpoint={tmp_path}").problems[0])
    (tmp_path / "checkpoint-1").mkdir()
    assert not compose(f"checkpoint.resume_from_checkpoint={tmp_path}").problems
