"""An update is that of one batch, however its samples are split into micro-batches and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tests import jobs
from tests.jobs import make_config
from trainer.logging.jsonl import read
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.data import Data
from trainer.schema.evaluation import Evaluation
from trainer.schema.logging import Logging
from trainer.schema.optim import AdamW
from trainer.schema.parallel import DDP
from trainer.schema.task import Classification, LanguageModeling
from trainer.schema.train import Train

transformers = pytest.importorskip("transformers")
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = {
    "vocab_size": 37, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip


class Ragged(Dataset[dict[str, Tensor]]):
    """Tokens of which very different shares have a label, in one sample none."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.randint(1, 37, (9,), generator=torch.Generator().manual_seed(index))
        labels = ids.clone()
        labels[: index % 10] = -100
        return {"input_ids": ids, "labels": labels}


def t5() -> Any:
    config = {"vocab_size": 37, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config, dropout_rate=0.0, decoder_start_token_id=0)
    )


def masked_lm() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**BERT, **NO_DROPOUT))


def token_classification() -> Any:
    return transformers.BertForTokenClassification(transformers.BertConfig(**BERT, **NO_DROPOUT, num_labels=37))


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**BERT))


MODELS = {"t5": LanguageModeling, "masked_lm": LanguageModeling, "token_classification": Classification,
          "llama": LanguageModeling}  # fmt: skip
SPLITS = [(8, 1, 1), (2, 4, 1), (1, 4, 2)]
"""Micro-batch size, accumulation, ranks."""


def split_config(model: str, size: int, accumulation: int, **sections: Any) -> Config:
    defaults: dict[str, Any] = {
        "model": {"_target_": f"tests.train.test_splits.{model}"},
        "task": MODELS[model](),
        "data": Data(train_dataset={"_target_": "tests.train.test_splits.Ragged"}),
        "train": Train(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_steps=4),
        "optim": AdamW(learning_rate=1e-2),
        "evaluation": Evaluation(),
        "logging": Logging(logging_steps=1),
        "parallel": DDP(),
    }
    return make_config(**(defaults | sections))


@pytest.mark.parametrize("model", MODELS)
def test_any_split_gives_the_update_of_one_batch(tmp_path: Path, model: str) -> None:
    results = []
    for size, accumulation, world in SPLITS:
        directory = tmp_path / f"{size}x{accumulation}x{world}"
        assert jobs.train(split_config(model, size, accumulation), directory, world_size=world) == [0] * world
        logs = [record for record in read(directory / "metrics.jsonl") if "loss" in record]
        results.append([record[key] for record in logs for key in ("loss", "grad_norm")])
    one, *others = results
    for other in others:
        assert other == pytest.approx(one, rel=1e-4)


def test_train_loss_is_right_after_a_resume_with_other_ranks(tmp_path: Path) -> None:
    """Step 3 is no step of a log: the sum since the last one is in the checkpoint as well."""
    checkpoint = Checkpoint(save_steps=3)
    logging = Logging(logging_steps=2)
    config = split_config("llama", 2, 4, checkpoint=checkpoint, logging=logging)
    assert jobs.train(config, tmp_path / "whole") == [0]
    kill = {"kill": {"_target_": "tests.jobs.KillAt", "step": 3, "number": 15}}
    config = split_config("llama", 2, 2, checkpoint=checkpoint, logging=logging, callbacks=kill)
    assert jobs.train(config, tmp_path / "run", world_size=2) == [jobs.PREEMPTED] * 2
    config = split_config("llama", 2, 4, checkpoint=checkpoint, logging=logging)
    assert jobs.train(config, tmp_path / "run", resume="auto") == [0]
    for key in ("loss", "train_loss"):
        whole, run = (
            [r[key] for r in read(tmp_path / name / "metrics.jsonl") if key in r] for name in ("whole", "run")
        )
        assert run == pytest.approx(whole, rel=1e-4)
