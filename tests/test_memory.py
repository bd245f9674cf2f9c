"""memory: what is computed again, kept elsewhere, emptied and measured; and that no number changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import jobs
from tests.jobs import make_config
from tests.tiny import Block, Blocks
from tests.train.test_resume import assert_same
from trainer.callbacks.empty_cache import EmptyCache
from trainer.logging.jsonl import read
from trainer.memory import measured, save_memory
from trainer.schema import Config
from trainer.schema.logging import Logging
from trainer.schema.memory import Memory
from trainer.schema.parallel import DDP, FSDP, DeepSpeed
from trainer.schema.train import Train
from trainer.state import Control, State

CPU = torch.device("cpu")


class Counted(Blocks):
    """Counts the calls of each block's parts, recomputation included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0] * len(self.blocks)
        for i, block in enumerate(self.blocks):
            block.norm.register_forward_hook(lambda *_, i=i: self._count(i))

    def _count(self, i: int) -> None:
        self.calls[i] += 1


def calls(**options: Any) -> list[int]:
    model = Counted()
    save_memory(model, Memory(activation_checkpointing=True, activation_checkpointing_kwargs=options), CPU)
    model(torch.randn(3, 97)).sum().backward()
    with torch.no_grad():
        model(torch.randn(3, 97))
    assert all(p.grad is not None for p in model.parameters())
    return model.calls


def test_layers_are_computed_again_in_backward() -> None:
    assert calls() == [3, 3, 3, 3]
    assert calls(every_n_layers=2) == [3, 2, 3, 2]
    assert calls(every_n_layers=3, offload=True) == [3, 2, 2, 3]


def test_fewer_activations_are_kept_and_offload_takes_the_rest() -> None:
    """Bytes that autograd keeps from forward to backward."""

    def kept(**node: Any) -> int:
        torch.manual_seed(0)
        model, total = Blocks(), 0
        save_memory(model, Memory(**node), CPU)

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(64, 97))
        return total

    plain, every, second = (
        kept(),
        kept(activation_checkpointing=True),
        kept(activation_checkpointing=True, activation_checkpointing_kwargs={"every_n_layers": 2}),
    )
    assert every < second < plain
    assert kept(activation_checkpointing=True, activation_checkpointing_kwargs={"offload": True}) < every


def test_a_model_without_layers() -> None:
    with pytest.raises(ValueError, match=r"memory.activation_checkpointing=true: Linear has no nn.ModuleList"):
        save_memory(nn.Linear(2, 2), Memory(activation_checkpointing=True), CPU)


def checkpointing(**sections: Any) -> Config:
    return make_config(memory=Memory(activation_checkpointing=True), **sections)


def test_no_bit_changes(tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path / "plain") == [0]
    assert jobs.train(checkpointing(), tmp_path / "run") == [0]
    assert_same(tmp_path / "run", tmp_path / "plain")


@pytest.mark.parametrize(
    "parallel",
    [
        DDP,
        FSDP,
        pytest.param(lambda: DeepSpeed(zero_stage=3), id="zero3", marks=pytest.mark.slow),
    ],
)
def test_no_bit_changes_on_several_ranks(tmp_path: Path, parallel: Any) -> None:
    train = Train(per_device_train_batch_size=4, max_steps=4)
    assert jobs.train(make_config(parallel=parallel(), train=train), tmp_path / "plain", world_size=2) == [0, 0]
    assert jobs.train(checkpointing(parallel=parallel(), train=train), tmp_path / "run", world_size=2) == [0, 0]
    assert_same(tmp_path / "run", tmp_path / "plain")


def test_a_transformers_model_does_it_itself() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=4, n_head=2, vocab_size=16, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    save_memory(
        model, Memory(activation_checkpointing=True, activation_checkpointing_kwargs={"every_n_layers": 2}), CPU
    )
    assert [layer.gradient_checkpointing for layer in model.transformer.h] == [True, False, True, False]
    assert model.config.use_cache is False
    save_memory(model, Memory(use_cache=True), CPU)
    assert model.config.use_cache is True
    with pytest.raises(ValueError, match=r"memory.use_cache=true: Block has no config.use_cache"):
        save_memory(Block(), Memory(use_cache=True), CPU)


def test_the_cache_is_emptied_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    callback, state = EmptyCache(3), State()
    for state.step in range(1, 8):
        callback.on_step_end(state, Control())
    assert len(emptied) == 2


def test_a_run_that_empties_the_cache_is_the_same_run(tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path / "plain") == [0]
    assert jobs.train(make_config(memory=Memory(torch_empty_cache_steps=2)), tmp_path / "run") == [0]
    assert_same(tmp_path / "run", tmp_path / "plain")


def test_memory_metrics() -> None:
    metrics: dict[str, Any] = {}
    with measured("train", CPU, metrics, skip=False):
        kept = torch.ones(16 << 20)
        del_me = torch.ones(32 << 20)
        del del_me
    assert metrics["train_mem_cpu_alloc_delta"] > 60e6
    assert metrics["train_mem_cpu_peaked_delta"] > 120e6
    assert kept.numel()
    with measured("train", CPU, metrics := {}, skip=True):
        pass
    assert metrics == {}


def test_memory_metrics_stand_in_the_ends_record(tmp_path: Path) -> None:
    assert jobs.train(make_config(logging=Logging(skip_memory_metrics=False)), tmp_path / "run") == [0]
    record = list(read(tmp_path / "run" / "metrics.jsonl"))[-1]
    assert {f"{stage}_mem_cpu_{kind}_delta" for stage in ("init", "train") for kind in ("alloc", "peaked")} <= set(
        record
    )
