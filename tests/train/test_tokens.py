"""include_num_input_tokens_seen: exact over ranks, epochs and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import jobs
from tests.data.test_order import Ragged, Tiny, node, ragged_run
from tests.train.test_resume import KILLED, assert_same, killed_at
from trainer.data.batches import epoch_order
from trainer.logging.jsonl import read
from trainer.schema.data import SamplingStrategy
from trainer.schema.logging import Logging, TokenCount
from trainer.schema.parallel import DDP
from trainer.schema.train import Train


class Masked(Tiny):
    """Takes a mask, which the collation then makes."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(input_ids)


def run(path: Path, count: TokenCount, ranks: int = 1, **sections: Any) -> list[dict[str, Any]]:
    config = ragged_run(
        model={"_target_": "tests.train.test_tokens.Masked"},
        data=node(SamplingStrategy.random),
        logging=Logging(logging_steps=1, include_num_input_tokens_seen=count),
        train=Train(per_device_train_batch_size=8 // ranks, max_steps=10),
        **({"parallel": DDP()} if ranks > 1 else {}),
        **sections,
    )
    assert jobs.train(config, path, world_size=ranks) == [0] * ranks
    return list(read(path / "metrics.jsonl"))


def expected(padded: bool) -> list[int]:
    """Tokens after each of 10 updates of 8 samples, 8 updates an epoch."""
    lengths, total, result = Ragged().lengths, 0, []
    updates = [part.tolist() for epoch in (0, 1) for part in epoch_order(61, 3, epoch).split(8)]
    for update in updates[:10]:
        mine = [lengths[i] for i in update]
        total += max(mine) * len(mine) if padded else sum(mine)
        result.append(total)
    return result


@pytest.mark.parametrize(("count", "padded"), [(TokenCount.all, True), (TokenCount.non_padding, False)])
def test_it_counts_what_the_model_sees(tmp_path: Path, count: TokenCount, padded: bool) -> None:
    records = run(tmp_path / "run", count)
    assert [r["num_input_tokens_seen"] for r in records if "loss" in r] == expected(padded)
    assert records[-1]["num_input_tokens_seen"] == expected(padded)[-1]
    assert all(r["train_tokens_per_second"] > 0 for r in records)


def test_over_all_ranks_without_those_that_fill_up(tmp_path: Path) -> None:
    records = run(tmp_path / "run", TokenCount.non_padding, ranks=2)
    assert [r["num_input_tokens_seen"] for r in records if "loss" in r] == expected(False)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_resumed_run_goes_on_counting(tmp_path: Path, steps: int) -> None:
    def config(**sections: Any) -> Any:
        logging = Logging(logging_steps=steps, include_num_input_tokens_seen=TokenCount.all)
        return ragged_run(logging=logging, **sections)

    assert jobs.train(config(), tmp_path / "whole") == [0]
    assert jobs.train(config(callbacks=killed_at(11)), tmp_path / "run") == KILLED
    assert jobs.train(config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_off_and_speed_alone(tmp_path: Path) -> None:
    assert "train_tokens_per_second" not in run(tmp_path / "off", TokenCount.no)[-1]
    config = ragged_run(logging=Logging(include_tokens_per_second=True))
    assert jobs.train(config, tmp_path / "speed") == [0]
    record = list(read(tmp_path / "speed" / "metrics.jsonl"))[-1]
    assert record["train_tokens_per_second"] > 0
    assert "num_input_tokens_seen" not in record


def test_padding_by_the_models_token() -> None:
    from types import SimpleNamespace

    from trainer.train.tokens import TokenCounter

    model = Tiny()
    model.config = SimpleNamespace(pad_token_id=0)  # type: ignore[assignment]
    counter = TokenCounter(model, TokenCount.non_padding, torch.device("cpu"))
    counter.add([({"input_ids": torch.tensor([[1, 2, 0], [3, 0, 0]])}, 1.0), ((torch.ones(2, 2),), float("inf"))])
    assert counter.total() == 3
