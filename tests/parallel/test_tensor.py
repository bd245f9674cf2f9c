"""Tensor parallelism: transformers' own plans, what cannot be cut, and checkpoints across its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.devices import CPU
from tests.parallel.updates import EvenRun, Logged, adamw, digests
from tests.ranks import run_ranks
from tests.tiny import Even
from trainer import distributed
from trainer.build.build import build
from trainer.parallel.tensor import plan_of
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Mesh
from trainer.schema.precision import Precision

T: dict[str, Any] = {"ddp_timeout": 60}
NODES: dict[str, Any] = {
    "ddp": DDP(**T),
    "fsdp": FSDP(**T),
    "hybrid": Mesh(dp_replicate_size=2, **T),
    "tp": Mesh(tp_size=2, tp_plan=Even.PLAN, **T),
    "copies of tp": Mesh(tp_size=2, tp_plan=Even.PLAN, dp_replicate_size=2, dp_shard_size=1, **T),
    "zero0": DeepSpeed(zero_stage=0, **T),
    "zero3": DeepSpeed(zero_stage=3, **T),
}


def start(name: str, directory: Path) -> tuple[Any, Any, list[Logged], Any]:
    run = EvenRun(NODES[name])
    run.train(0, 3)
    meta = run.save(directory / "start")
    return meta, digests(directory / "start"), run.train(3, 5), run.digest(directory / "end")


def resume(name: str, directory: Path, meta: Any) -> tuple[Any, list[Logged], Any]:
    run = EvenRun(NODES[name])
    run.load(directory / "start", meta)
    where = f"{name}-{distributed.world_size()}"
    digest = run.digest(directory / where)
    return digest, run.train(3, 5), run.digest(directory / f"{where}-end")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "ranks"), [("copies of tp", 4), ("hybrid", 2)])
def test_a_checkpoint_of_a_mesh_is_every_engines(first: str, ranks: int, tmp_path: Path) -> None:
    meta, digest, logged, end = run_ranks(start, first, tmp_path, world_size=ranks, timeout=120)[0]
    again = run_ranks(resume, first, tmp_path, meta, world_size=ranks, timeout=120)[0]
    assert again == (digest, logged, end), "to the bit, in the same shape"
    others = [(name, 2) for name in ("tp", "zero3") if (name, 2) != (first, ranks)]
    for name, world in [*others, ("ddp", 1)]:
        same, other, _ = run_ranks(resume, name, tmp_path, meta, world_size=world, timeout=120)[0]
        assert same == digest, name
        assert [out.loss for out in other] == pytest.approx([out.loss for out in logged], abs=1e-5), name


def causal_lm(kind: str, heads: int = 4) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 8}
    config = AutoConfig.for_model(
        kind, num_attention_heads=heads, num_key_value_heads=2, tie_word_embeddings=kind == "qwen3", **sizes
    )
    model: nn.Module = AutoModelForCausalLM.from_config(config)
    return model


def transformers_model(kind: str, node: Any) -> list[tuple[float, float]]:
    engine = build(node, precision=Precision(), device=CPU)
    torch.manual_seed(0)
    model, _ = engine.setup(causal_lm(kind), adamw, max_grad_norm=0.5)
    generator, logged, shared = torch.Generator().manual_seed(1), [], engine.ranks_per_batch
    for _ in range(4):
        tokens = torch.randint(0, 64, (4, 8), generator=generator)
        own = tokens[distributed.rank() // shared :: distributed.world_size() // shared]
        with engine.accumulate(last=True):
            loss = model(input_ids=own, labels=own).loss
            engine.backward(loss)
        out = engine.step()
        whole = float(distributed.all_reduce_sum(loss.detach().clone())) / distributed.world_size()
        logged.append((whole, float(out.grad_norm)))
    engine.close()
    return logged


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_transformers_own_plans(kind: str) -> None:
    pytest.importorskip("transformers")
    expected = run_ranks(transformers_model, kind, DDP(**T), world_size=1, timeout=120)[0]
    ranks = run_ranks(transformers_model, kind, Mesh(tp_size=2, **T), timeout=120)
    for logged in ranks:
        assert [x for pair in logged for x in pair] == pytest.approx([x for pair in expected for x in pair], abs=2e-5)


def refusals() -> list[str]:
    """What is said about a model or a plan that cannot be cut in two."""
    found = []
    for plan in ({"blocks.*.up": "colwise", "blocks.*.sideways": "rowwise"}, {"blocks.*.up": "diagonal"}, None,
                 {"blocks.*": "colwise"}, {"embed": "embedding_rowwise"}):  # fmt: skip
        try:
            EvenRun(Mesh(tp_size=2, tp_plan=plan, **T))
        except ValueError as error:
            found.append(str(error))
    try:
        EvenRun(Mesh(tp_size=3, tp_plan=Even.PLAN, **T))
    except ValueError as error:
        found.append(str(error))
    return found


def test_what_cannot_be_cut_is_refused_in_a_line() -> None:
    unknown, style, none, kind, tied, sizes = run_ranks(refusals)[0]
    assert "blocks.*.sideways: no module has this name" in unknown
    assert "there is no style diagonal" in style
    assert "Even has no tp_plan; fix: parallel.tp_plan=" in none
    assert "is a Block; only Linear and Embedding are cut" in kind
    assert "share a weight must be cut alike" in tied
    assert "dp_shard_size 0 x cp_size 1 x tp_size 3 are not 2 ranks" in sizes


def test_a_plans_star_is_one_segment() -> None:
    plan = plan_of(Even(), {"blocks.*.up": "colwise", "*": "rowwise"})
    assert plan == {f"blocks.{i}.up": "colwise" for i in range(3)} | dict.fromkeys(
        ("embed", "blocks", "mix", "norm", "head"), "rowwise"
    )
