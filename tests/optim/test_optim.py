"""Every offered optimizer against the class it stands for, and the translation of names."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.optim import make_optimizer
from trainer.schema import optim as schema


class Model(nn.Module):
    """Every kind of parameter that the groups tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)) for _ in "ab")
        self.q_norm = nn.Linear(8, 8)
        self.normalizer = nn.Linear(8, 8)
        self.RMSNorm_1 = nn.Linear(8, 8)
        self.batch = nn.BatchNorm1d(8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.conv = nn.Conv1d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.blocks:
            x = x + block(x)
        x = self.RMSNorm_1(self.normalizer(self.q_norm(x))) * self.scale
        x = self.conv(self.batch(x.transpose(1, 2))).transpose(1, 2)
        logits: Tensor = self.head(self.frozen(x))
        return logits


def model() -> Model:
    torch.manual_seed(0)
    return Model()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        ids = torch.randint(0, 11, (4, 6), generator=generator)
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


def trainer_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    pytest.importorskip("transformers")
    from transformers.trainer_pt_utils import get_parameter_names

    # Trainer.get_decay_parameter_names, which needs no more of a Trainer than this
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    decayed = get_parameter_names(model, [nn.LayerNorm], patterns)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in named if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]


def assert_same(mine: list[Tensor], theirs: list[Tensor], **tolerance: float) -> None:
    torch.testing.assert_close(mine, theirs, **(tolerance or {"rtol": 0, "atol": 0}))


def test_groups_are_the_trainers() -> None:
    m = model()
    optimizer = make_optimizer(schema.AdamW(weight_decay=0.1), m)
    assert [(list(map(id, group["params"])), group["weight_decay"]) for group in optimizer.param_groups] == [
        (list(map(id, group["params"])), group["weight_decay"]) for group in trainer_groups(m, 0.1)
    ]
    decayed = {name for name, p in m.named_parameters() if id(p) in set(map(id, optimizer.param_groups[0]["params"]))}
    assert "q_norm.weight" not in decayed
    assert {"tokens.weight", "scale", "normalizer.weight", "blocks.0.1.weight", "batch.weight"} <= decayed


@pytest.mark.parametrize(
    ("node", "reference"),
    [
        (
            schema.AdamW(learning_rate=1e-2, weight_decay=0.1, adam_beta1=0.7, adam_beta2=0.8, adam_epsilon=1e-3),
            lambda groups: torch.optim.AdamW(groups, lr=1e-2, betas=(0.7, 0.8), eps=1e-3),
        ),
        (
            schema.AdamW(learning_rate=1e-2, weight_decay=0.1, fused=True, amsgrad=True),
            lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True, amsgrad=True),
        ),
        (
            schema.SGD(learning_rate=1e-2, weight_decay=0.1, momentum=0.9, nesterov=True),
            lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
        ),
        (
            schema.Adagrad(learning_rate=1e-2, weight_decay=0.1, lr_decay=0.1, initial_accumulator_value=0.1),
            lambda groups: torch.optim.Adagrad(groups, lr=1e-2, lr_decay=0.1, initial_accumulator_value=0.1),
        ),
        (
            schema.RMSprop(learning_rate=1e-3, weight_decay=0.1, alpha=0.9, centered=True, momentum=0.5),
            lambda groups: torch.optim.RMSprop(groups, lr=1e-3, alpha=0.9, centered=True, momentum=0.5),
        ),
    ],
    ids=["adamw", "adamw_fused", "sgd", "adagrad", "rmsprop"],
)
def test_torchs_optimizers_to_the_bit(
    node: schema.Optim, reference: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
) -> None:
    mine, theirs = model(), model()
    optimizer = make_optimizer(node, mine)
    assert_same(train(mine, optimizer), train(theirs, reference(trainer_groups(theirs, 0.1))))


@pytest.mark.parametrize(("beta1", "scale"), [(None, False), (0.9, False), (None, True)])
def test_adafactor_equals_transformers(beta1: float | None, scale: bool) -> None:
    transformers = pytest.importorskip("transformers.optimization")
    mine, theirs = model(), model()
    node = schema.Adafactor(learning_rate=1e-2, weight_decay=0.1, beta1=beta1, scale_parameter=scale)
    optimizer = make_optimizer(node, mine)
    reference = transformers.Adafactor(
        trainer_groups(theirs, 0.1), lr=1e-2, beta1=beta1, scale_parameter=scale, relative_step=False
    )
    assert_same(train(mine, optimizer), train(theirs, reference), rtol=1e-6, atol=1e-6)


def test_adafactor_updates_half_precision() -> None:
    transformers = pytest.importorskip("transformers.optimization")
    mine, theirs = model().bfloat16(), model().bfloat16()
    optimizer = make_optimizer(schema.Adafactor(learning_rate=1e-2), mine)
    reference = transformers.Adafactor(trainer_groups(theirs, 0.0), lr=1e-2, scale_parameter=False, relative_step=False)
    assert_same(train(mine, optimizer), train(theirs, reference), rtol=1e-2, atol=1e-2)
    assert {v.dtype for state in optimizer.state.values() for v in state.values()} == {torch.float32}


@pytest.mark.parametrize("adjust_lr_fn", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_equals_torchs_muon_and_adamw(adjust_lr_fn: str, nesterov: bool) -> None:
    mine, theirs = model(), model()
    node = schema.Muon(learning_rate=1e-2, weight_decay=0.1, adjust_lr_fn=adjust_lr_fn, nesterov=nesterov)
    optimizer = make_optimizer(node, mine)
    groups = optimizer.param_groups
    assert [group["algorithm"] for group in groups] == ["muon", "adamw", "adamw"]
    names = {id(p): name for name, p in mine.named_parameters()}
    hidden = [names[id(p)] for p in groups[0]["params"]]
    assert hidden == [f"blocks.{b}.{layer}.weight" for b in (0, 1) for layer in (1, 2)] + ["normalizer.weight"]
    assert "head.weight" in {names[id(p)] for p in groups[1]["params"]}

    parameters = dict(theirs.named_parameters())
    others = [
        {"params": [parameters[names[id(p)]] for p in group["params"]], "weight_decay": group["weight_decay"]}
        for group in groups[1:]
    ]
    muon = torch.optim.Muon(
        [parameters[name] for name in hidden],
        lr=1e-2,
        weight_decay=0.1,
        adjust_lr_fn=adjust_lr_fn,
        nesterov=nesterov,
    )
    adamw = torch.optim.AdamW(others, lr=1e-2)

    class Both(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(theirs.parameters(), {})

        def step(self, closure: Any = None) -> None:
            muon.step()
            adamw.step()

    assert_same(train(mine, optimizer), train(theirs, Both()))


def test_muon_refuses_flattened_matrices() -> None:
    m = model()
    optimizer = make_optimizer(schema.Muon(), m)
    flat = nn.Parameter(torch.zeros(8))
    flat.grad = torch.ones(8)
    optimizer.param_groups[0]["params"] = [flat]
    with pytest.raises(ValueError, match="whole matrices"):
        optimizer.step()


@pytest.mark.parametrize("node", [schema.Adafactor(beta1=0.9), schema.Muon()], ids=["adafactor", "muon"])
def test_own_optimizers_go_on_from_their_state(node: schema.Optim) -> None:
    straight, resumed = model(), model()
    optimizer = make_optimizer(node, straight)
    train(straight, optimizer)
    resumed.load_state_dict(straight.state_dict())
    again = make_optimizer(node, resumed)
    again.load_state_dict(deepcopy(optimizer.state_dict()))  # it shares its tensors
    assert_same(train(straight, optimizer), train(resumed, again))


class Own(torch.optim.SGD):
    def __init__(self, params: Any, lr: float, weight_decay: float = 0.3, spice: int = 0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.spice = spice


class NoDecay(torch.optim.Optimizer):
    def __init__(self, parameters: Any, learning_rate: float) -> None:
        super().__init__(parameters, {"learning_rate": learning_rate})


def own(name: type) -> str:
    return f"{__name__}.{name.__name__}"


def test_a_users_own_class() -> None:
    optimizer = make_optimizer({"_target_": own(Own), "learning_rate": 0.5, "weight_decay": 0.1, "spice": 3}, model())
    assert isinstance(optimizer, Own)
    assert optimizer.spice == 3
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.1), (0.5, 0.0)]


def test_weight_decay_that_is_not_given_is_the_classs_own() -> None:
    optimizer = make_optimizer({"_target_": own(Own), "lr": 0.5}, model())
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]


def test_the_classs_own_names_win() -> None:
    keys = {"lr": 0.5, "betas": [0.5, 0.6], "learning_rate": 0.1, "adam_beta1": 0.1}
    optimizer = make_optimizer({"_target_": "torch.optim.NAdam", **keys}, model())
    assert (optimizer.defaults["lr"], list(optimizer.defaults["betas"])) == (0.5, [0.5, 0.6])


def test_a_class_that_says_learning_rate() -> None:
    optimizer = make_optimizer({"_target_": own(NoDecay), "learning_rate": 0.5, "weight_decay": 0.0}, model())
    assert optimizer.defaults == {"learning_rate": 0.5}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"spicy": 1}, ["optim.spicy=1", "allowed: lr, spice, weight_decay", "did you mean spice"]),
        ({"adam_beta1": 0.5}, ["optim.adam_beta1=0.5", "takes no betas"]),
    ],
)
def test_keys_that_would_do_nothing_are_errors(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make_optimizer({"_target_": own(Own), "learning_rate": 0.5, **keys}, model())
    assert all(word in str(error.value) for word in words), str(error.value)


def test_weight_decay_that_would_do_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"optim\.weight_decay=0\.1"):
        make_optimizer({"_target_": own(NoDecay), "learning_rate": 0.5, "weight_decay": 0.1}, model())


def test_a_model_without_trainable_parameters() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        make_optimizer(schema.SGD(), nn.Linear(2, 2).requires_grad_(False))
