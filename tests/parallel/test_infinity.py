"""ZeRO-Infinity: what DeepSpeed has swapped out to disk is in our checkpoints, and comes back, to the bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tests import jobs
from tests.devices import CPU
from tests.parallel.updates import Run, adamw
from tests.ranks import run_ranks
from tests.tiny import Block
from trainer import distributed
from trainer.build.build import build
from trainer.checkpoint import shard
from trainer.parallel import nvme
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.evaluation import Evaluation, IntervalStrategy
from trainer.schema.logging import Logging
from trainer.schema.parallel import FSDP, DeepSpeed, OffloadDevice
from trainer.schema.precision import Precision
from trainer.schema.train import Train

pytestmark = pytest.mark.timeout(1500)  # the first one compiles

NVME = OffloadDevice.nvme
TIED = "head.weight"
STAGE3: dict[str, Any] = {"ddp_timeout": 120, "zero_stage": 3}


class Wide(nn.Module):
    """Matrices whose halves are above DeepSpeed's 1 MiB, a tied and a frozen one; vectors that are below. No size is a
    multiple of O_DIRECT's 512 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(701, 769)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList([Block(769, 1031, activation=torch.tanh)])
        self.mix = nn.Linear(769, 769).requires_grad_(False)
        self.norm = nn.BatchNorm1d(769)
        self.head = nn.Linear(769, 701, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(self.mix(x)))
        return out


class WideRun(Run):
    def __init__(self, node: Any) -> None:
        self.engine = build(node, precision=Precision(), device=CPU)
        torch.manual_seed(0)
        self.model, self.optimizer = self.engine.setup(Wide(), of_trained, max_grad_norm=0.3)
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        self.device, self.rank, self.world = CPU, distributed.rank(), distributed.world_size()


def of_trained(model: nn.Module) -> Optimizer:
    optimizer = adamw(model)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    return optimizer


def nodes(path: Path) -> dict[str, DeepSpeed]:
    disk = {"device": "nvme", "nvme_path": str(path)}
    piped = disk | {"pipeline_read": True, "pipeline_write": True, "buffer_count": 4}
    small = {"stage": 3, "sub_group_size": 600_000, "stage3_prefetch_bucket_size": 1_000_000}
    return {
        "both": DeepSpeed(**STAGE3, offload_optimizer=NVME, offload_param=NVME, nvme_path=str(path)),
        "parameters": DeepSpeed(**STAGE3, offload_param=NVME, nvme_path=str(path)),
        "optimizer, piped": DeepSpeed(
            ddp_timeout=120, config={"zero_optimization": small | {"offload_optimizer": piped}}
        ),
        "both, sub groups": DeepSpeed(
            ddp_timeout=120, config={"zero_optimization": small | {"offload_optimizer": disk, "offload_param": disk}}
        ),
    }


def close(run: Run) -> None:
    distributed.barrier()
    distributed.keep_store()
    run.engine.close()


def disk_and_memory(directory: Path, names: list[str]) -> dict[str, list[str]]:
    """FSDP's checkpoint goes on in each engine that swaps; that one's in the same objects, in fresh ones, and in FSDP.
    The files on disk in the middle, by the engine's name."""
    fsdp, files = FSDP(ddp_timeout=120), {}
    run = WideRun(fsdp)
    run.train(0, 2)
    meta, at = run.save(directory / "fsdp"), run.digest(directory / "fsdp-again")
    expected = run.train(2, 4)
    close(run)
    for name in names:
        folder = directory / name
        folder.mkdir(exist_ok=True)
        run = WideRun(nodes(directory)[name])
        run.load(directory / "fsdp", meta)
        assert run.digest(folder / "loaded") == at, name
        first = run.train(2, 3)
        middle = run.save(folder / "middle")
        logged, end = run.train(3, 4), run.digest(folder / "end")
        losses = [out.loss for out in first + logged]
        assert losses == pytest.approx([out.loss for out in expected], rel=1e-5), name
        files[name] = [path.name for path in directory.glob("trainer-swap-*/**/*.swp")]
        if (weights := run.engine.weights()) is not None:
            reader = shard.ShardReader(folder / "end")
            same = {key: torch.equal(weights[key], reader.read_whole(f"model/{key}")) for key in weights if key != TIED}
            assert all(same.values()), (name, same)
            assert torch.equal(weights[TIED], weights["embed.weight"]), name
        run.load(folder / "middle", middle)
        assert run.train(3, 4) == logged, name
        close(run)
        run = WideRun(nodes(directory)[name])
        run.load(folder / "middle", middle)
        assert run.train(3, 4) == logged, name
        assert run.digest(folder / "end-again") == end, name
        close(run)
    run = WideRun(fsdp)
    run.load(folder / "middle", middle)
    assert [out.loss for out in run.train(3, 4)] == pytest.approx([out.loss for out in logged], rel=1e-5)
    close(run)
    return files


@pytest.fixture(scope="module", autouse=True)
def asynchronous_reads(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled once on a machine, for minutes."""
    pytest.importorskip("deepspeed")
    if not any(Path(folder, "libaio.h").exists() for folder in ("/usr/include", "/usr/local/include")):
        pytest.skip("needs libaio's headers: apt-get install libaio-dev")
    run_ranks(compile_once, world_size=1, timeout=1200)


def compile_once() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    nvme.load_async_io()


@pytest.mark.slow
def test_what_is_on_disk_is_saved_and_comes_back(tmp_path: Path) -> None:
    names = list(nodes(tmp_path))
    files = run_ranks(disk_and_memory, tmp_path, names, timeout=400)[0]
    # how many weights and states of the two ranks are on disk
    parameters = {name: sum("_param." in file for file in files[name]) for name in names}
    states = {name: sum(file.startswith("exp_avg_sq-") for file in files[name]) for name in names}
    assert parameters == {"both": 8, "parameters": 8, "optimizer, piped": 0, "both, sub groups": 8}
    assert states == {"both": 2, "parameters": 0, "optimizer, piped": 4, "both, sub groups": 4}
    assert not list(tmp_path.glob("trainer-swap-*")), "nothing is left on the disk"


class Small(nn.Sequential):
    """One matrix above 1 MiB, and what leads to it and from it."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(97, 600), nn.Tanh(), nn.Linear(600, 600), nn.Tanh(), nn.Linear(600, 10))


@pytest.mark.slow
def test_killed_and_resumed_is_the_whole_run_and_the_best_comes_back(tmp_path: Path) -> None:
    def config(node: DeepSpeed, **sections: Any) -> Config:
        return jobs.make_config(
            model={"_target_": "tests.parallel.test_infinity.Small"},
            train=Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=1.0),
            evaluation=Evaluation(eval_strategy=IntervalStrategy.steps, eval_steps=2),
            checkpoint=Checkpoint(save_steps=2, load_best_model_at_end=True),
            logging=Logging(logging_steps=1),
            parallel=node,
            **sections,
        )

    whole, again, memory = tmp_path / "whole", tmp_path / "again", tmp_path / "memory"
    disk = nodes(tmp_path)["both"]
    assert jobs.train(config(disk), whole) == [0]
    assert not list(tmp_path.glob("trainer-swap-*"))
    assert jobs.train(config(disk, callbacks={"kill": {"_target_": "tests.jobs.KillAt", "step": 5}}), again) == [-9]
    assert list(tmp_path.glob("trainer-swap-*/*/optimizer/rank0/*.swp")), "a killed run cannot clean up"
    assert jobs.train(config(disk), again, resume="auto") == [0]
    assert not list(tmp_path.glob("trainer-swap-*")), "the next one does"
    assert jobs.state(again, 6) == jobs.state(whole, 6)
    assert (again / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    cpu = OffloadDevice.cpu
    assert jobs.train(config(DeepSpeed(**STAGE3, offload_optimizer=cpu, offload_param=cpu)), memory) == [0]
    whole_losses, *others = (
        {record["step"]: record["loss"] for record in jobs.logged(directory) if "loss" in record}
        for directory in (whole, again, memory)
    )
    assert others == [whole_losses, whole_losses]


class Skipping(nn.Module):
    """Leaves out a layer in its fourth call, which DeepSpeed has read ahead by then."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(600, 600) for _ in range(4))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for number, layer in enumerate(self.layers):
            if (number, self.calls) != (2, 4):
                x = torch.tanh(layer(x))
        return x


def skip_a_layer(directory: Path) -> dict[str, list[float]]:
    cpu = OffloadDevice.cpu
    known = nodes(directory) | {
        "zero2": DeepSpeed(zero_stage=2),
        "zero2_offload": DeepSpeed(zero_stage=2, offload_optimizer=cpu),
        "zero3": DeepSpeed(zero_stage=3),
        "zero3_offload": DeepSpeed(zero_stage=3, offload_optimizer=cpu, offload_param=cpu),
    }
    losses: dict[str, list[float]] = {}
    for name, node in known.items():
        engine = build(node, precision=Precision(), device=CPU)
        torch.manual_seed(0)
        model, _ = engine.setup(Skipping(), adamw, max_grad_norm=1.0)
        losses[name] = []
        for _ in range(6):
            with engine.accumulate(last=True):
                loss = model(torch.ones(2, 600)).square().mean()
                engine.backward(loss)
            engine.step()
            losses[name].append(loss.item())
        distributed.keep_store()
        engine.close()
    return losses


def test_a_layer_that_is_left_out_has_no_gradient_and_is_read_anew_afterwards(tmp_path: Path) -> None:
    (losses,) = run_ranks(skip_a_layer, tmp_path, world_size=1, timeout=120)
    for name, found in losses.items():
        assert found == pytest.approx(losses["zero2"], rel=1e-6), name


def test_a_path_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"parallel.nvme_path={tmp_path}/none: No such file or directory; fix: "):
        nvme.SwapFolder(tmp_path / "none")


def test_folders_of_the_dead_are_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    mine = nvme.SwapFolder(tmp_path)
    (tmp_path / "trainer-swap-killed").mkdir()
    (tmp_path / "other").mkdir()
    other = nvme.SwapFolder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.path.name, other.path.name, "other"}
    mine.close()
    other.close()
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_buffers_are_as_many_as_the_optimizer_takes() -> None:
    assert nvme._optimizer_buffers(adamw) == 4  # weights, gradients, two moments
    assert nvme._optimizer_buffers(lambda model: SGD(model.parameters(), 0.1)) == 2
    with pytest.raises(ValueError, match="cannot swap the states of Adagrad; fix: "):
        nvme._optimizer_buffers(lambda model: Adagrad(model.parameters()))
