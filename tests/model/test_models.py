"""The models of the package: shapes, initialisation, causality, the places where they are built."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainer.model.gpt import GPT
from trainer.model.huggingface import causal_lm
from trainer.model.mlp import MLP
from trainer.schema import model as schema

SMALL = schema.GPT(vocab_size=17, block_size=8, n_layer=2, n_head=2, n_embd=16)


def small() -> GPT:
    torch.manual_seed(0)
    return GPT(SMALL)


def test_the_default_has_about_900_000_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT(schema.GPT()).parameters()) == 875_264


def test_a_token_sees_those_before_it_only() -> None:
    model, ids = small(), torch.randint(0, 17, (2, 8), generator=torch.Generator().manual_seed(0))
    logits = model(ids)
    assert logits.shape == (2, 8, 17)
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 17
    torch.testing.assert_close(model(changed)[:, :5], logits[:, :5])
    assert not torch.allclose(model(changed)[:, 5:], logits[:, 5:])
    torch.testing.assert_close(model(ids[:, :3]), logits[:, :3])


def test_positions_and_head_are_learnt_apart_from_the_tokens() -> None:
    model = small()
    loss = nn.functional.cross_entropy(model(torch.zeros(1, 8, dtype=torch.long))[0], torch.arange(8))
    assert loss.item() == pytest.approx(math.log(17), abs=0.1)
    assert {id(p) for p in (model.tokens.weight, model.head.weight, model.positions.weight)} <= set(
        map(id, model.parameters())
    )
    model(torch.zeros(1, 8, dtype=torch.long)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_initialisation_is_gpt2s_for_this_width() -> None:
    model = GPT(schema.GPT(n_layer=8))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            expected = 0.02 if name == "head.weight" else 0.02 * 6**0.5
            expected /= 4 if name.endswith("_out.weight") else 1
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_built_on_meta_and_initialised_later() -> None:
    with torch.device("meta"):
        model = GPT(SMALL)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert model.blocks[0].attention_out.weight.std().item() == pytest.approx(0.01 * 48**0.5, rel=0.2)


def test_dropout_is_off_in_evaluation() -> None:
    model = GPT(schema.GPT(vocab_size=17, block_size=8, n_layer=1, n_head=1, n_embd=16, dropout=0.5))
    ids = torch.zeros(1, 8, dtype=torch.long)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_wrong_sizes_say_which() -> None:
    with pytest.raises(ValueError, match=r"model\.n_head=3 does not divide model\.n_embd=16"):
        GPT(schema.GPT(n_embd=16, n_head=3))
    with pytest.raises(ValueError, match=r"9 tokens, more than model\.block_size=8"):
        small()(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=r"model\.sizes=\[4\]"):
        MLP(schema.MLP(sizes=[4]))


def test_mlp() -> None:
    assert [type(layer) for layer in MLP(schema.MLP(sizes=[4, 5, 6, 2], dropout=0.1))] == [
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
        nn.ReLU,
        nn.Dropout,
        nn.Linear,
    ]
    assert MLP(schema.MLP(sizes=[4, 2]))(torch.zeros(3, 4)).shape == (3, 2)


def test_a_transformers_model_from_its_config_alone() -> None:
    pytest.importorskip("transformers")
    config = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 16, "bos_token_id": 0, "eos_token_id": 0}
    model = causal_lm(schema.HFCausalLM(config=config))
    out = model(input_ids=torch.zeros(1, 4, dtype=torch.long), labels=torch.zeros(1, 4, dtype=torch.long))
    assert out.logits.shape == (1, 4, 16)
    assert out.loss.ndim == 0
