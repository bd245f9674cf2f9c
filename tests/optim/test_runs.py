"""Whole runs with optimizers whose state or weights are special: resumed to the bit, evaluated and exported rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import jobs
from trainer.checkpoint import shard
from trainer.schema.optim import AdaLomo
from trainer.schema.optim_packages import ApolloAdamW, BnbAdamW, GaLoreAdamW, ScheduleFreeAdamW, StableAdamW
from trainer.schema.scheduler import Constant

pytest.importorskip("schedulefree")

NODES: dict[str, Any] = {
    "schedule_free": lambda: ScheduleFreeAdamW(learning_rate=1e-2, weight_decay=0.1, optim_args="warmup_steps=2"),
    "bitsandbytes": lambda: BnbAdamW(learning_rate=1e-2, optim_bits=8, optim_args="min_8bit_size=16"),
    "apollo": lambda: ApolloAdamW(learning_rate=1e-2, rank=2, update_proj_gap=3),
    "stable_adamw": lambda: StableAdamW(learning_rate=1e-2),
    "galore_layerwise": lambda: GaLoreAdamW(learning_rate=1e-2, rank=2, update_proj_gap=3, layerwise=True),
    "adalomo": lambda: AdaLomo(learning_rate=0.03, weight_decay=0.1),
}


def config(name: str, *callbacks: Any) -> Any:
    made = jobs.make_config(optim=NODES[name](), scheduler=Constant())
    made.callbacks = dict(callbacks)
    if getattr(made.optim, "layerwise", False):
        made.train.max_grad_norm, made.train.gradient_accumulation_steps = 0.0, 1
        made.train.per_device_train_batch_size *= 2
    return made


@pytest.mark.parametrize("name", NODES)
def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path, name: str) -> None:
    assert jobs.train(config(name), tmp_path / "straight") == [0]
    kill = ("kill", {"_target_": "tests.jobs.KillAt", "step": 8})
    assert jobs.train(config(name, kill), tmp_path / "killed") == [-9]
    assert jobs.train(config(name), tmp_path / "killed", resume="auto") == [0]
    assert jobs.state(tmp_path / "killed", 12) == jobs.state(tmp_path / "straight", 12)
    assert jobs.logged(tmp_path / "killed") == jobs.logged(tmp_path / "straight")


def test_checkpoints_and_exports_hold_the_average(tmp_path: Path) -> None:
    made = config("schedule_free")
    made.checkpoint.save_steps = 14
    assert jobs.train(made, tmp_path) == [0]
    reader = shard.ShardReader(tmp_path / "checkpoints" / "checkpoint-14")
    exported = load_file(tmp_path / "model" / "model.safetensors")
    names = [n.removeprefix("optim/train_weights/") for n in reader.names() if n.startswith("optim/train_weights/")]
    assert names
    for name in names:
        assert torch.equal(exported[name], reader.read_whole(f"model/{name}"))
        average, z = reader.read_whole(f"model/{name}"), reader.read_whole(f"optim/z/{name}")
        trained = reader.read_whole(f"optim/train_weights/{name}")
        torch.testing.assert_close(trained, average.lerp(z, 1 - 0.9), rtol=1e-4, atol=1e-6)
    assert any(
        not torch.equal(reader.read_whole(f"model/{n}"), reader.read_whole(f"optim/train_weights/{n}")) for n in names
    )


def test_saving_and_evaluating_more_often_changes_nothing(tmp_path: Path) -> None:
    rare, often = config("schedule_free"), config("schedule_free")
    often.checkpoint.save_steps, often.evaluation.eval_steps = 1, 1
    assert jobs.train(rare, tmp_path / "rare") == [0]
    assert jobs.train(often, tmp_path / "often") == [0]
    left, right = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("rare", "often"))
    assert all(torch.equal(value, right[name]) for name, value in left.items())
