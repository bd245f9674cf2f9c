"""NEFTune: noise of the paper's size on the input embeddings, in training only."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import jobs
from tests.data.test_order import ragged_run
from tests.train.test_resume import KILLED, assert_same, killed_at
from trainer.schema.train import Train
from trainer.train.neftune import add_noise

IDS = torch.arange(12).view(2, 6)


def embeddings(alpha: float | None) -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(30, 8), nn.Embedding(3, 8))
    add_noise(model, alpha)
    return model


def test_uniform_noise_of_the_papers_size() -> None:
    model = embeddings(5.0)
    weight = model[0].weight
    noise = torch.stack([model[0](IDS) - weight[IDS] for _ in range(200)]).detach()
    bound = 5 / math.sqrt(6 * 8)
    assert 0.99 * bound < noise.abs().max() <= bound * 1.0001
    assert abs(noise.std() - bound / math.sqrt(3)) < 0.01 * bound
    assert torch.equal(model[1](IDS[:, :1] * 0), model[1].weight[IDS[:, :1] * 0])


def test_none_in_evaluation() -> None:
    model = embeddings(5.0).eval()
    assert torch.equal(model[0](IDS), model[0].weight[IDS])


def test_a_model_says_where_its_input_embeddings_are() -> None:
    class Model(nn.Sequential):
        def get_input_embeddings(self) -> nn.Module:
            return self[1]

    model = Model(nn.Embedding(30, 8), nn.Embedding(30, 8))
    add_noise(model, 1.0)
    assert torch.equal(model[0](IDS), model[0].weight[IDS])
    assert not torch.equal(model[1](IDS), model[1].weight[IDS])


def test_a_model_without_embeddings() -> None:
    with pytest.raises(ValueError, match=r"train.neftune_noise_alpha=1.0: Linear has no nn.Embedding"):
        add_noise(nn.Linear(2, 2), 1.0)


def test_a_run_with_noise_resumes_to_the_bit(tmp_path: Path) -> None:
    train = Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=14, neftune_noise_alpha=5.0)
    assert jobs.train(ragged_run(), tmp_path / "plain") == [0]
    assert jobs.train(ragged_run(train=train), tmp_path / "whole") == [0]
    assert jobs.logged(tmp_path / "plain") != jobs.logged(tmp_path / "whole")
    assert jobs.train(ragged_run(train=train, callbacks=killed_at(8)), tmp_path / "run") == KILLED
    assert jobs.train(ragged_run(train=train), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")
