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

from tests.parallel.traps import CPU, Logged, Run, adamw
from tests.ranks import run_ranks
from trainer import distributed, shards
from trainer.build import build
from trainer.parallel import swapping
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, OffloadDevice
from trainer.schema.precision import Precision

NVME = OffloadDevice.nvme
STAGE3: dict[str, Any] = {"ddp_timeout": 120, "zero_stage": 3}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(768)
        self.up, self.down = nn.Linear(768, 1031), nn.Linear(1031, 768)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.down(torch.tanh(self.up(self.norm(x)))))


class Wide(nn.Module):
    """Matrices whose halves are above DeepSpeed's 1 MiB, a tied and a frozen one; vectors that are below."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(701, 768)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.mix = nn.Linear(768, 768).requires_grad_(False)
        self.norm = nn.BatchNorm1d(768)
        self.head = nn.Linear(768, 701, bias=False)
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
        self.rank, self.world = distributed.rank(), distributed.world_size()


def of_trained(model: nn.Module) -> Optimizer:
    optimizer = adamw(model)
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    return optimizer


def nodes(path: Path) -> dict[str, Any]:
    both = {"device": "nvme", "nvme_path": str(path)}
    small = {"stage": 3, "sub_group_size": 600_000, "stage3_prefetch_bucket_size": 1_000_000}
    return {
        "both": DeepSpeed(**STAGE3, offload_optimizer=NVME, offload_param=NVME, nvme_path=str(path)),
        "optimizer": DeepSpeed(**STAGE3, offload_optimizer=NVME, nvme_path=str(path)),
        "parameters": DeepSpeed(**STAGE3, offload_param=NVME, nvme_path=str(path)),
        "sub groups": DeepSpeed(
            ddp_timeout=120,
            config={"zero_optimization": small | {"offload_optimizer": both, "offload_param": both}},
        ),
        "pipelined": DeepSpeed(
            ddp_timeout=120,
            config={
                "zero_optimization": small
                | {"offload_optimizer": both | {"pipeline_read": True, "pipeline_write": True, "buffer_count": 9}}
            },
        ),
    }


def resume(name: str, directory: Path) -> tuple[list[Logged], dict[str, str], list[str]]:
    """Run on; go back in the same objects; go on in fresh ones. Losses of all 4 steps, state at the end, files."""
    node = nodes(directory)[name]
    run = WideRun(node)
    before = run.train(0, 2)
    meta = run.save(directory / "checkpoint")
    at = run.digest(directory / "saved")
    logged, end = run.train(2, 4), run.digest(directory / "end")
    files = [path.name for folder in directory.glob("trainer-swap-*") for path in folder.rglob("*.swp")]
    run.load(directory / "checkpoint", meta)
    assert run.digest(directory / "rolled-back") == at
    assert run.train(2, 4) == logged
    weights = run.engine.weights()
    if run.rank == 0:
        assert weights is not None
        reader = shards.ShardReader(directory / "end")
        for name_, weight in weights.items():
            if f"model/{name_}" in reader.names():
                assert torch.equal(weight, reader.read_whole(f"model/{name_}")), name_
    distributed.keep_store()
    run.engine.close()
    run = WideRun(node)
    run.load(directory / "checkpoint", meta)
    assert run.digest(directory / "loaded") == at
    assert run.train(2, 4) == logged
    assert run.digest(directory / "again") == end
    distributed.barrier()
    run.engine.close()
    return before + logged, end, files


@pytest.fixture(scope="module", autouse=True)
def asynchronous_reads(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled once on a machine, for minutes."""
    pytest.importorskip("deepspeed")
    if not any(Path(folder, "libaio.h").exists() for folder in ("/usr/include", "/usr/local/include")):
        pytest.skip("needs libaio's headers: apt-get install libaio-dev")
    run_ranks(compile_once, world_size=1, timeout=1200)


def compile_once() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    swapping._load_async_io()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "swapped"),
    [
        ("both", {"exp_avg_sq", "_param"}),
        ("optimizer", {"exp_avg_sq"}),
        ("parameters", {"_param"}),
        ("sub groups", {"exp_avg_sq", "_param"}),
        ("pipelined", {"exp_avg_sq"}),
    ],
)
def test_resume_is_exact(name: str, swapped: set[str], tmp_path: Path) -> None:
    first, second = run_ranks(resume, name, tmp_path, timeout=240)
    assert first[0] == second[0]
    assert {word for word in ("exp_avg_sq", "_param") for file in first[2] if word in file} == swapped
    states = [file for file in first[2] if file.startswith("exp_avg_sq")]
    assert len(states) == {"both": 2, "optimizer": 2}.get(name, 0 if name == "parameters" else 6)
    assert not list(tmp_path.glob("trainer-swap-*")), "nothing is left on the disk"


def onward(
    node: Any, directory: Path, meta: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, str], list[Logged]]:
    """Two steps from the start or from a checkpoint, which is saved; its digest, and two steps more."""
    run = WideRun(node)
    if meta is not None:
        run.load(directory / "from", meta)
        return meta, run.digest(directory / type(node).__name__), run.train(2, 4)
    run.train(0, 2)
    return run.save(directory / "from"), run.digest(directory / "digest"), run.train(2, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("both", "ddp"), ("both", "fsdp"), ("zero3", "both")])
def test_a_checkpoint_from_disk_is_every_engines(first: str, second: str, tmp_path: Path) -> None:
    known = nodes(tmp_path) | {"ddp": DDP(ddp_timeout=120), "fsdp": FSDP(ddp_timeout=120), "zero3": DeepSpeed(**STAGE3)}
    meta, digest, logged = run_ranks(onward, known[first], tmp_path, None, timeout=240)[0]
    _, same, onwards = run_ranks(onward, known[second], tmp_path, meta, timeout=240)[0]
    assert same == digest
    assert [out.loss for out in onwards] == pytest.approx([out.loss for out in logged], rel=1e-4)


def unusable(node: Any) -> str:
    with pytest.raises(ValueError, match="parallel") as caught:
        WideRun(node)
    return str(caught.value)


def test_a_path_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    (line,) = run_ranks(unusable, nodes(tmp_path / "none")["both"], world_size=1)
    assert line.startswith(f"parallel.nvme_path={tmp_path}/none: No such file or directory; fix: ")


def test_folders_of_the_dead_are_removed_and_of_the_living_kept(tmp_path: Path) -> None:
    mine = swapping.SwapFolder(tmp_path)
    (tmp_path / "trainer-swap-killed").mkdir()
    (tmp_path / "other").mkdir()
    other = swapping.SwapFolder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.path.name, other.path.name, "other"}
    mine.close()
    other.close()
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_buffers_are_as_many_as_the_optimizer_takes() -> None:
    assert swapping._optimizer_buffers(adamw) == 4  # weights, gradients, two moments
    assert swapping._optimizer_buffers(lambda model: SGD(model.parameters(), 0.1)) == 2
    with pytest.raises(ValueError, match="cannot swap the states of Adagrad; fix: "):
        swapping._optimizer_buffers(lambda model: Adagrad(model.parameters()))
