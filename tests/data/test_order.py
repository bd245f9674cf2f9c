"""data.train_sampling_strategy: the same order at any world size, after a resume, and less padding."""

from __future__ import annotations

import random
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests import jobs
from tests.jobs import make_config
from tests.train.test_resume import KILLED, assert_same, killed_at
from trainer.data.batches import BatchLayout, epoch_order
from trainer.data.order import Order, balanced, grouped
from trainer.data.train_data import TrainData
from trainer.schema.data import Data, SamplingStrategy
from trainer.schema.evaluation import Evaluation
from trainer.schema.parallel import DDP
from trainer.schema.task import LanguageModeling
from trainer.schema.train import Train


class Ragged(Dataset[dict[str, Any]]):
    """61 sequences of 3 to 40 tokens; each access draws a random number that changes nothing."""

    def __init__(self, column: bool = False) -> None:
        self.lengths = [random.Random(i).randint(3, 40) for i in range(61)]
        self.column = column

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        torch.rand(1)
        ids = [(index + k) % 29 + 1 for k in range(self.lengths[index])]
        return {"input_ids": ids, "labels": ids, "name": f"sample {index}"} | (
            {"cost": -self.lengths[index]} if self.column else {}
        )


class Tiny(nn.Module):
    """A recurrent language model."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.rnn, self.head = nn.Embedding(30, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 30)

    def forward(self, input_ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.rnn(self.tokens(input_ids))[0])
        return output


def node(strategy: SamplingStrategy, **options: Any) -> Data:
    return Data(train_dataset={"_target_": "tests.data.test_order.Ragged"}, train_sampling_strategy=strategy, **options)


GROUPED = node(SamplingStrategy.group_by_length)
BALANCED = node(SamplingStrategy.batch_rebalance)


def test_sequential_and_random() -> None:
    assert Order(Ragged(), node(SamplingStrategy.sequential), 8, 3)(5).tolist() == list(range(61))
    assert Order(Ragged(), node(SamplingStrategy.random), 8, 3)(5).tolist() == epoch_order(61, 3, 5).tolist()


def test_grouped_is_a_permutation_with_the_longest_first() -> None:
    dataset = Ragged()
    order = Order(dataset, GROUPED, 8, 3)
    for epoch in range(3):
        indices = order(epoch).tolist()
        assert sorted(indices) == list(range(61))
        assert dataset.lengths[indices[0]] == max(dataset.lengths)
    assert order(0).tolist() == Order(dataset, GROUPED, 8, 3)(0).tolist() != order(1).tolist()


def test_it_is_hugging_faces_grouping() -> None:
    trainer = pytest.importorskip("transformers.trainer_pt_utils")
    dataset = Ragged()
    theirs = trainer.get_length_grouped_indices(dataset.lengths, 4, generator=torch.Generator().manual_seed(3))
    assert grouped(epoch_order(61, 3, 0), torch.tensor(dataset.lengths), 4).tolist() == theirs


def test_lengths_may_stand_in_a_column() -> None:
    lengths = Order(
        Ragged(column=True), node(SamplingStrategy.group_by_length, length_column_name="cost"), 8, 3
    ).lengths
    assert lengths is not None
    assert lengths.tolist() == [-n for n in Ragged().lengths]


def padding(data: Data, layout: BatchLayout) -> tuple[int, list[set[str]]]:
    """Padded places of an epoch, and each update's samples on this rank."""
    train = TrainData(Ragged(), layout, data, collate=None, seed=3, device=torch.device("cpu"))
    updates, pads = [], 0
    for micro_batches, _ in train.steps():
        updates.append({name for batch, divisor in micro_batches for name in batch["name"] if divisor < 1e9})
        pads += sum(int(batch["input_ids"].eq(0).sum()) for batch, _ in micro_batches)
    return pads, updates


def test_it_reduces_padding() -> None:
    layout = BatchLayout(4, 2, 1, 0)
    random_ = padding(node(SamplingStrategy.random), layout)[0]
    assert padding(GROUPED, layout)[0] < 0.6 * random_


@pytest.mark.parametrize("data", [GROUPED, BALANCED])
def test_the_updates_are_the_same_at_any_world_size(data: Data) -> None:
    whole = padding(data, BatchLayout(4, 3, 1, 0))[1]
    parts = [padding(data, BatchLayout(4, 1, 3, rank))[1] for rank in range(3)]
    assert [set.union(*update) for update in zip(*parts, strict=True)] == whole


def costliest(lengths: list[int], groups: list[list[int]]) -> float:
    longest = [(len(group), max(lengths[i] for i in group)) for group in groups]
    return max(count * (length + 0.001 * length**2) for count, length in longest)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_cut_has_a_cheaper_costliest_group(seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.randint(1, 3000) for _ in range(draw.randint(4, 11))]
    groups = balanced(lengths, 4)
    assert sorted(chain(*groups)) == list(range(len(lengths)))
    assert len(groups) == 4
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    cuts = [(0, *inside, len(order)) for inside in combinations(range(1, len(order)), 3)]
    best = min(costliest(lengths, [order[a:b] for a, b in pairwise(cut)]) for cut in cuts)
    assert best <= costliest(lengths, groups) <= 1.001 * best


def test_balanced_updates_are_the_random_ones_and_no_dearer_than_hugging_faces() -> None:
    """The same samples in each update as without; their sampler's groups of seed 42 are compared one by one."""
    trainer = pytest.importorskip("transformers.trainer_pt_utils")
    lengths = Ragged().lengths
    order = Order(Ragged(), BALANCED, 12, 42)
    layouts = [BatchLayout(2, 2, 3, rank) for rank in range(3)]
    theirs = [
        list(trainer.BatchRebalanceSampler(lengths, 12, 3, 2, seed=42, rank=r, drop_last=False)) for r in (0, 1, 2)
    ]
    indices = order(0).tolist()
    for k in range(5):  # the sixth is of one sample
        update = indices[12 * k : 12 * k + 12]
        ours = [list(chunk) for layout in layouts for chunk, _ in order.micro_batches(update, layout)]
        slots = [rank[2 * k + slot] for slot in (0, 1) for rank in theirs]
        assert sorted(chain(*ours)) == sorted(update) == sorted(chain(*slots))
        assert costliest(lengths, ours) <= 1.001 * costliest(lengths, slots)
    assert [[list(c) for c, _ in order.micro_batches(indices[60:], layout)] for layout in layouts] == [
        [indices[60:]]
    ] * 3


def ragged_run(**sections: Any) -> Any:
    return make_config(
        **{
            "model": {"_target_": "tests.data.test_order.Tiny"},
            "task": LanguageModeling(),
            "data": GROUPED,
            "evaluation": Evaluation(),
            "train": Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=jobs.STEPS),
        }
        | sections
    )


@pytest.mark.parametrize("data", [GROUPED, BALANCED])
def test_a_run_that_was_killed_goes_on_in_its_order(tmp_path: Path, data: Data) -> None:
    assert jobs.train(ragged_run(data=data), tmp_path / "whole") == [0]
    assert jobs.train(ragged_run(data=data, callbacks=killed_at(11)), tmp_path / "run") == KILLED
    assert jobs.train(ragged_run(data=data), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("across", [True, False])
def test_tokens_count_the_same_over_all_ranks_or_over_one(tmp_path: Path, across: bool) -> None:
    """Two ranks give one process's numbers when tokens are averaged over all; else each rank's mean counts the same."""

    def train(ranks: int, **options: Any) -> Train:
        return Train(per_device_train_batch_size=4 // ranks, max_steps=1, max_grad_norm=0, **options)

    assert jobs.train(ragged_run(train=train(1)), tmp_path / "one") == [0]
    two = ragged_run(train=train(2, average_tokens_across_devices=across), parallel=DDP())
    assert jobs.train(two, tmp_path / "two", world_size=2) == [0, 0]
    one, other = (float.fromhex(jobs.logged(tmp_path / name)[-1]["train_loss"]) for name in ("one", "two"))
    assert (abs(one - other) < 1e-6) == across
    if not across:
        torch.manual_seed(3)
        model = Tiny()
        data = TrainData(Ragged(), BatchLayout(2, 1, 2, 0), GROUPED, collate=None, seed=3, device=torch.device("cpu"))
        task_losses = []
        for rank in range(2):
            data.layout = BatchLayout(2, 1, 2, rank)
            batch = next(data.steps())[0][0][0]
            logits, labels = model(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
            total = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            task_losses.append(float(total.detach() / labels.ne(-100).sum()))
            data.epoch = data.step_in_epoch = 0
        assert abs(sum(task_losses) / 2 - other) < 1e-6
