"""Context parallelism: the numbers of whole sequences, on any mesh; what cannot be cut; runs, resumed and elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from tests import jobs
from tests.devices import CPU
from tests.parallel.updates import adamw
from tests.ranks import run_ranks
from trainer.build.build import build
from trainer.logging.jsonl import read
from trainer.parallel.context import _unfit
from trainer.schema import model as models
from trainer.schema import task as tasks
from trainer.schema.checkpoint import Checkpoint, SaveStrategy
from trainer.schema.data import Data, TextBlocks
from trainer.schema.evaluation import Evaluation, IntervalStrategy
from trainer.schema.logging import Logging, TokenCount
from trainer.schema.memory import Memory
from trainer.schema.parallel import Mesh, Single
from trainer.schema.precision import Precision
from trainer.schema.train import Train

T: dict[str, Any] = {"ddp_timeout": 60}
TOKENS, LENGTH = 32, 16
SIZES = {"vocab_size": TOKENS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}


class Encoder(nn.Module):
    """Every token sees every other, through torch's own layer; a token's class is that of the one before it."""

    tp_plan = {"up": "colwise", "down": "rowwise"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(TOKENS, 32), nn.Embedding(LENGTH, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, TOKENS)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        places = torch.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        x = self.tokens(input_ids) + self.places(places)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head(x + self.down(F.gelu(self.up(x))))
        return out


def make(kind: str, **config: Any) -> nn.Module:
    torch.manual_seed(0)
    if kind == "gpt":
        made: nn.Module = build(models.GPT(vocab_size=TOKENS, block_size=LENGTH, n_layer=2, n_head=4, n_embd=32))
        return made
    if kind == "encoder":
        return Encoder()
    made = build(models.HFCausalLM(model_type=kind, config=SIZES | config))
    return made


class Ragged(Dataset[dict[str, Tensor]]):
    """64 samples; three in four have labels in their first quarter alone, so that some ranks have none."""

    def __init__(self, padded: bool = True) -> None:
        self.ids = torch.randint(0, TOKENS, (64, LENGTH), generator=torch.Generator().manual_seed(1))
        self.padded = padded

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        labels, mask = self.ids[index].clone(), torch.ones(LENGTH, dtype=torch.long)
        labels[LENGTH // 4 if index % 4 else LENGTH - 3 :] = -100
        mask[LENGTH - 3 :] = int(not self.padded)
        return {"input_ids": self.ids[index], "labels": labels, "attention_mask": mask}


def ragged_run(kind: str, node: Any, data_ranks: int = 1, smoothing: float = 0.0, **sections: Any) -> Any:
    """Eight clipped updates of 8 samples in 2 micro-batches."""
    data = {"_target_": "tests.parallel.test_context.Ragged", "padded": kind != "encoder"}
    return jobs.make_config(
        model={"_target_": "tests.parallel.test_context.make", "kind": kind},
        data=Data(train_dataset=data),
        task=tasks.LanguageModeling(),
        train=Train(
            per_device_train_batch_size=4 // data_ranks,
            gradient_accumulation_steps=2,
            max_steps=8,
            max_grad_norm=0.3,
            label_smoothing_factor=smoothing,
        ),
        logging=Logging(logging_steps=1, include_num_input_tokens_seen=TokenCount.all),
        evaluation=Evaluation(eval_strategy=IntervalStrategy.no),
        checkpoint=Checkpoint(save_strategy=SaveStrategy.no),
        parallel=node,
        **sections,
    )


def numbers(directory: Path, first: int = 0) -> list[float]:
    keys = ("loss", "grad_norm", "num_input_tokens_seen")
    return [
        record[key]
        for record in read(directory / "metrics.jsonl")
        for key in keys
        if key in record and record["step"] > first
    ]


MESHES: dict[str, tuple[Mesh, int, int]] = {
    "cp of 2": (Mesh(cp_size=2), 2, 1),
    "cp of 4": (Mesh(cp_size=4), 4, 1),
    "2 x cp of 2": (Mesh(cp_size=2), 4, 2),
    "2 copies of cp of 2": (Mesh(cp_size=2, dp_replicate_size=2), 4, 2),
    "cp of 2 x tp of 2": (Mesh(cp_size=2, tp_size=2), 4, 1),
}
RECOMPUTED: dict[str, Any] = {"memory": Memory(activation_checkpointing=True)}
BF16: dict[str, Any] = {"precision": Precision(bf16=True)}


@pytest.mark.parametrize(
    ("kind", "options", "meshes"),
    [
        ("gpt", {}, list(MESHES)),
        ("gpt", {"smoothing": 0.1}, ["cp of 2"]),
        ("gpt", RECOMPUTED, ["cp of 2"]),
        ("gpt", BF16, ["2 x cp of 2"]),
        ("encoder", {}, ["cp of 2"]),
        ("llama", {}, ["cp of 2 x tp of 2"]),
        ("llama", RECOMPUTED, ["cp of 2"]),
    ],
)
def test_parts_of_sequences_give_the_numbers_of_whole_ones(
    kind: str, options: dict[str, Any], meshes: list[str], tmp_path: Path
) -> None:
    if kind == "llama":
        pytest.importorskip("transformers")
    plain = {key: value for key, value in options.items() if key not in BF16 | RECOMPUTED}
    assert jobs.train(ragged_run(kind, Single(), **plain), tmp_path / "alone") == [0]
    expected = numbers(tmp_path / "alone")
    assert len(expected) > 24
    assert min(expected) > 0.3, "clipping must bite"
    for name in meshes:
        node, ranks, data_ranks = MESHES[name]
        run = tmp_path / name
        assert jobs.train(ragged_run(kind, node, data_ranks, **options), run, world_size=ranks) == [0] * ranks
        assert numbers(run) == pytest.approx(expected, abs=0.02 if options == BF16 else 1e-5), name


class Bag(nn.Module):
    """Tokens that meet in no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, TOKENS)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        out: Tensor = self.tokens(input_ids)
        return out


class Masked(Bag):
    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        x = super().forward(input_ids)
        return F.scaled_dot_product_attention(x, x, x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool))


class Pooled(Encoder):
    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        return super().forward(input_ids, position_ids).mean(1)


def refusals() -> dict[str, str]:
    ids = torch.zeros(2, LENGTH, dtype=torch.long)
    ragged = torch.ones_like(ids)
    ragged[0, -3:] = 0
    calls: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "odd": (make("gpt"), {"input_ids": ids[:, :7]}),
        "short": (make("gpt"), {"input_ids": ids[:, :2]}),
        "packed": (make("gpt"), {"input_ids": ids, "position_ids": torch.arange(LENGTH) % 8}),
        "left": (make("gpt"), {"input_ids": ids, "attention_mask": ragged.flip(1)}),
        "square": (make("gpt"), {"input_ids": ids, "attention_mask": torch.ones(2, 1, LENGTH, LENGTH)}),
        "padded": (Encoder(), {"input_ids": ids, "attention_mask": ragged}),
        "other input": (make("gpt"), {"input_ids": ids, "image": torch.zeros(2, 3)}),
        "no attention": (Bag(), {"input_ids": ids}),
        "mask": (Masked(), {"input_ids": ids}),
        "pooled": (Pooled(), {"input_ids": ids}),
        "no places": (nn.Linear(3, 3), {}),
    }
    found = {}
    for name, (model, inputs) in calls.items():
        engine = build(Mesh(cp_size=2, **T), precision=Precision(), device=CPU)
        try:
            model, _ = engine.setup(model, adamw, max_grad_norm=1.0)
            with engine.accumulate(last=True):
                model(**inputs)
        except (ValueError, RuntimeError) as error:
            found[name] = str(error)
    return found


def test_what_cannot_be_cut_is_refused_in_a_line() -> None:
    found = run_ranks(refusals)
    expected = {
        "odd": "parallel.cp_size=2 does not cut sequences of 7 tokens into equal parts",
        "short": "does not cut sequences of 2 tokens into equal parts of two or more",
        "packed": "position_ids that are not 0, 1, 2 ...",
        "left": "padding before a sequence's tokens; fix: pad behind them",
        "square": "an attention_mask (2, 1, 16, 16); allowed: (2, 16)",
        "padded": "padding, which attention to all tokens would see",
        "other input": "is given (2, 16), (2, 3)",
        "no attention": "Bag did not call torch.nn.functional.scaled_dot_product_attention",
        "mask": "attention with a mask (8, 8)",
        "pooled": "an output (2, 32) of 8 tokens; allowed: (B, T, ...)",
        "no places": "Linear cannot be cut: its forward takes no position_ids",
    }
    for rank in found:
        assert rank.keys() == expected.keys()
        for name, message in expected.items():
            assert message in rank[name], name
            assert "\n" not in rank[name], name


@pytest.mark.parametrize(
    ("kind", "config", "problems"),
    [
        ("llama", {}, []),
        ("llama", {"attn_implementation": "eager"}, ["eager; fix: model.config.attn_implementation=sdpa"]),
        ("mistral", {"sliding_window": 8}, ["sliding_window=8; fix: model.config.sliding_window=null"]),
        ("mistral", {"sliding_window": None}, []),
        ("gemma2", {}, ["its attention is eager", "it has layers of sliding_attention"]),
        ("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 4}, ["its Conv1d would mix", "it has layers of hybrid"]),
        ("mixtral", {"output_router_logits": True}, ["its loss has a term over all tokens; fix: "]),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ["its dynamic positions depend on"]),
    ],
)  # fmt: skip
def test_what_transformers_models_say_of_themselves(kind: str, config: dict[str, Any], problems: list[str]) -> None:
    pytest.importorskip("transformers")
    found = list(_unfit(make(kind, **config)))
    assert len(found) == len(problems)
    assert all(problem in said for problem, said in zip(problems, found, strict=True))


def text_run(node: Any, *, dropout: float = 0.0, **sections: Any) -> Any:
    text = {"vocab_size": 256, "block_size": LENGTH, "n_layer": 2, "n_head": 2, "n_embd": 16}
    return jobs.make_config(
        model=models.GPT(dropout=dropout, **text),
        data=Data(train_dataset=TextBlocks(block_size=LENGTH), eval_dataset=TextBlocks(block_size=4096, split="eval")),
        task=tasks.LanguageModeling(),
        train=Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=6),
        logging=Logging(logging_steps=1, include_num_input_tokens_seen=TokenCount.all),
        evaluation=Evaluation(eval_strategy=IntervalStrategy.no),
        checkpoint=Checkpoint(save_steps=3),
        parallel=node,
        **sections,
    )


def test_a_run_and_its_checkpoints_are_those_of_one_process(tmp_path: Path) -> None:
    nodes = {"alone": (Single(), 1), "shared": (Mesh(cp_size=2), 2)}
    for name, (node, ranks) in nodes.items():
        assert jobs.train(text_run(node), tmp_path / name, world_size=ranks) == [0] * ranks
    expected = numbers(tmp_path / "alone")
    assert len(expected) > 18
    assert numbers(tmp_path / "shared") == pytest.approx(expected, abs=1e-5)
    for name, (node, ranks) in nodes.items():
        other = "shared" if name == "alone" else "alone"
        start = str(tmp_path / other / "checkpoints" / "checkpoint-3")
        again = tmp_path / f"{name} from {other}"
        assert jobs.train(text_run(node), again, world_size=ranks, resume=start) == [0] * ranks
        assert numbers(again) == pytest.approx(numbers(tmp_path / "alone", 3), abs=1e-5)


def test_resumed_to_the_bit_with_dropout_of_its_own_on_each_rank(tmp_path: Path) -> None:
    whole, again, node = tmp_path / "whole", tmp_path / "again", Mesh(cp_size=2)
    assert jobs.train(text_run(node, dropout=0.1), whole, world_size=2) == [0, 0]
    kill = {"kill": {"_target_": "tests.jobs.KillAt", "step": 5}}
    assert jobs.train(text_run(node, dropout=0.1, callbacks=kill), again, world_size=2) != [0, 0]
    assert jobs.train(text_run(node, dropout=0.1), again, world_size=2, resume="auto") == [0, 0]
    assert jobs.state(again, 6) == jobs.state(whole, 6)
    assert numbers(again) == numbers(whole)
    ranks = (whole / "checkpoints" / "checkpoint-6").glob("rank-*.json")
    seeds = [json.loads(rank.read_text())["rng"]["torch"][:16] for rank in ranks]  # what a state begins with
    assert len(seeds) == len(set(seeds)) == 2
