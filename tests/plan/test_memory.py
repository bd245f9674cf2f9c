"""The plan against what engines really hold: on 1, 2 and 4 ranks, and on up to 1024 of torch's fake process group."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.jobs import make_config
from tests.ranks import run_ranks
from tests.tiny import Augmented, Blocks
from trainer import distributed
from trainer import plan as trainer_plan
from trainer.build.build import build
from trainer.cli import main
from trainer.data.batches import BatchLayout
from trainer.data.train_data import TrainData
from trainer.optim import make_optimizer
from trainer.parallel.footprint import Footprint, Shapes, replicated
from trainer.parallel.single import SingleEngine
from trainer.plan.disk import checkpoint_bytes
from trainer.plan.memory import footprint, shapes
from trainer.plan.steps import batches
from trainer.schema import Config
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Mesh, OffloadDevice
from trainer.schema.precision import Precision
from trainer.task import make_task

ENGINES = {"ddp": DDP(), "fsdp": FSDP(), "zero2": DeepSpeed(zero_stage=2), "zero3": DeepSpeed(zero_stage=3)}


def held() -> dict[str, tuple[int, int]]:
    """Bytes of weights and of optimizer state in this rank's shards after a step, by engine."""
    found = {}
    for name, node in ENGINES.items():
        config = make_config(parallel=node)
        engine = build(node, precision=Precision(), device=torch.device("cpu"))
        model, _ = engine.setup(Blocks(), partial(make_optimizer, config.optim), max_grad_norm=1.0)
        with engine.accumulate(last=True):
            engine.backward(model(torch.randn(4, 97)).square().mean())
        engine.step()
        sizes = {"model": 0, "optim": 0}
        for shard in engine.state().shards:
            if len(shard.shape):  # step counts are scalars
                sizes[shard.name.split("/")[0]] += shard.data.numel() * shard.data.element_size()
        found[name] = sizes["model"], sizes["optim"]
        distributed.keep_store()  # to meet again for the next engine
        engine.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
def test_sharded_state_is_right_to_5_percent(world: int) -> None:
    ranks = run_ranks(held, world_size=world)
    for name, node in ENGINES.items():
        config = make_config(parallel=node)
        traced = shapes(config, Augmented())
        memory = footprint(config, traced, world, world)
        masters = sum(p.numel() * 4 for p in traced.parameters) / world if name.startswith("zero") else 0
        assert memory.optimizer - masters == pytest.approx(max(rank[name][1] for rank in ranks), rel=0.05), name
        if name in ("fsdp", "zero3"):
            assert memory.parameters == pytest.approx(max(rank[name][0] for rank in ranks), rel=0.05), name
        assert checkpoint_bytes(traced) == pytest.approx(sum(sum(rank[name]) for rank in ranks), rel=0.001), name


@pytest.mark.parametrize("world", [8, 64, 1024])
def test_many_ranks_build_their_mesh_shards_and_data(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    for node in (FSDP(), Mesh(dp_replicate_size=world // 8, dp_shard_size=8)):
        config = make_config(parallel=node)
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
        try:
            engine = build(node, precision=Precision(), device=torch.device("cpu"))
            model, _ = engine.setup(Blocks(), partial(make_optimizer, config.optim), max_grad_norm=1.0)
            own = sum(p.to_local().numel() * 4 for p in model.parameters() if isinstance(p, DTensor))
            engine.close()
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        memory = footprint(config, shapes(config, Augmented()), world, 8)
        assert memory.parameters == own
    per_rank = [BatchLayout(2, 2, world, rank).micro_batches(range(4 * world)) for rank in range(world)]
    assert sorted(i for parts in per_rank for chunk, _ in parts for i in chunk) == list(range(4 * world))


@pytest.mark.parametrize("precision", [Precision(), Precision(bf16=True)])
def test_activations_are_what_a_real_forward_keeps(precision: Precision) -> None:
    config = make_config(precision=precision)
    traced = shapes(config, Augmented())
    model, task, data = Blocks(), make_task(config.task), Augmented()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.stack([data[i][0] for i in range(4)])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision.bf16):
            output = model(x)
        task.criterion(output.float(), torch.arange(4))
    assert traced.activations == pytest.approx(sum(t.untyped_storage().nbytes() for t in kept.values()), rel=0.05)


def test_the_batches_are_the_runs(compose: Callable[..., Any]) -> None:
    config: Config = compose("experiment=null", "train.gradient_accumulation_steps=3", "parallel=fsdp").config
    dataset = build(config.data.train_dataset)
    counts = batches(config, 16, 8, dataset)
    loop = TrainData(dataset, BatchLayout(8, 3, 16, 0), config.data, collate=None, seed=42, device=torch.device("cpu"))
    assert counts.update_size == 8 * 3 * 16
    assert counts.steps_per_epoch == loop.steps_per_epoch
    assert counts.max_steps == loop.max_steps(-1, 3.0)


@pytest.mark.parametrize(
    ("overrides", "world"),
    [(["parallel=tp"], 2), (["parallel=mesh", "parallel.cp_size=4", "parallel.tp_size=2"], 2)],
)
def test_tensor_and_context_parallel_ranks_see_the_same_data(
    compose: Callable[..., Any], overrides: list[str], world: int
) -> None:
    config: Config = compose(*overrides, "launch.nproc_per_node=8").config
    counts = batches(config, 16, 8, build(config.data.train_dataset))
    assert (counts.world_size, counts.data_world_size) == (16, world)


def test_ranks_that_share_sequences_share_parameters_and_activations() -> None:
    config = make_config(parallel=Mesh())
    traced = shapes(config, Augmented())
    shared = replace(config, parallel=Mesh(cp_size=4))
    whole, cut = footprint(config, traced, 4, 4), footprint(shared, traced, 4, 4)
    assert replace(cut, activations=whole.activations) == whole
    assert cut.activations == math.ceil((whole.activations or 0) / 4)


def test_updates_inside_backward_keep_one_gradient(compose: Callable[..., Any]) -> None:
    config: Config = compose("optim=lomo").config
    traced = shapes(config, build(config.data.train_dataset))
    assert footprint(config, traced, 1, 1).gradients == max(p.numel() for p in traced.parameters) * 4


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["plan", "launch.nproc_per_node=8", "launch.nnodes=4", "precision=bf16", "parallel=fsdp"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "32 ranks (4 x 8)" in text
    assert "zero3" in text
    assert main([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["update_size"] == made["per_device_train_batch_size"] * 32
    assert made["memory"]["as configured"] == made["memory"]["fsdp"]
    assert made["disk"] == 3 * made["parameters"] * 4
    assert list(tmp_path.iterdir()) == []


def test_no_engine_is_named_in_plan() -> None:
    engines = {"DDP", "FSDP", "DeepSpeed", "Mesh", "Single", "zero", "mesh"}
    named = {
        path.name: sorted(found)
        for path in Path(trainer_plan.__path__[0]).glob("*.py")
        if (found := engines & set(re.findall(r"[A-Za-z]+", path.read_text())))
    }
    assert named == {}


class Thirds(SingleEngine):
    """A user's own way to spread a model."""

    @staticmethod
    def data_parallel_size(node: Any, world_size: int, local_world_size: int) -> int:
        return world_size // 3

    @staticmethod
    def footprint(node: Any, shapes: Shapes, **_: Any) -> Footprint:
        return replace(replicated(shapes, 1), communication=node["bytes"])


def test_an_engine_of_ones_own_answers_for_itself() -> None:
    config = make_config(parallel={"_target_": "tests.plan.test_memory.Thirds", "bytes": 7})
    assert footprint(config, shapes(config, Augmented()), 6, 6).communication == 7
    assert batches(config, 6, 6, Augmented()).data_world_size == 2


def test_a_wrong_config_is_a_wrong_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "optim.learning_rate=nan", "train.max_stepz=1"]) == 2
    errors = capsys.readouterr().err
    assert "optim.learning_rate=nan" in errors
    assert "train.max_steps=1" in errors


def test_what_is_offloaded_is_the_hosts_or_on_disk() -> None:
    node, held = DeepSpeed(zero_stage=3), dict[str, Footprint]()
    traced = shapes(make_config(parallel=node), Augmented())
    for device in OffloadDevice:
        config = make_config(parallel=replace(node, offload_optimizer=device, offload_param=device))
        held[str(device)] = footprint(config, traced, 2, 2)
    here = held["none"].parameters + held["none"].optimizer
    assert {name: (m.parameters + m.optimizer, m.host) for name, m in held.items()} == {
        "none": (here, 0),
        "cpu": (0, here),
        "nvme": (0, 0),
    }
