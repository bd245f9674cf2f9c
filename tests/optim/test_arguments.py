"""optim_args, optim_target_modules and the rules about optimizers and engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from trainer.build.calls import check_calls
from trainer.config.composer import Composition
from trainer.errors import ConfigError
from trainer.launch.ranks import world_size
from trainer.optim import make_optimizer
from trainer.schema import optim, optim_packages
from trainer.schema.optim_args import parse

Compose = Callable[..., Composition]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("", {}),
        ("rank=64, scale=0.5,proj_type=std", {"rank": 64, "scale": 0.5, "proj_type": "std"}),
        ("a=true,b=False,c=none,d=1e-3,e=-2", {"a": True, "b": False, "c": None, "d": 1e-3, "e": -2}),
        ("betas=(0.8,0.9),lr=1", {"betas": [0.8, 0.9], "lr": 1}),
        ({"betas": [0.8, 0.9]}, {"betas": [0.8, 0.9]}),
    ],
)
def test_parse(text: Any, expected: dict[str, Any]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["momentum", "=1", "a=1,,b=2", 3])
def test_parse_refuses(text: Any) -> None:
    with pytest.raises(ValueError, match=r"is not NAME=VALUE|is neither text"):
        parse(text)


def defaults(node: optim.Optim) -> dict[str, Any]:
    return make_optimizer(node, nn.Linear(4, 4)).defaults


def test_arguments_reach_the_class_typed() -> None:
    assert defaults(optim.SGD(optim_args="momentum=0.9,nesterov=1"))["momentum"] == 0.9
    assert defaults(optim.AdamW(optim_args="beta1=0.5,eps=1e-3,capturable=false"))["betas"] == (0.5, 0.999)
    assert defaults(optim.AdamW(adam_beta1=0.7, optim_args="betas=(0.1,0.2)"))["betas"] == (0.1, 0.2)
    assert defaults(optim.AdamW(optim_args={"lr": 0.25}))["lr"] == 0.25
    with pytest.raises(ConfigError, match="takes no spice"):
        make_optimizer(optim.SGD(optim_args="spice=1"), nn.Linear(4, 4))


def test_ademamix_and_stable_adamw() -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("optimi")
    node = optim_packages.BnbAdEMAMix(adam_beta1=0.8, optim_args="beta3=0.99,t_alpha=7")
    assert (defaults(node)["betas"], defaults(node)["t_alpha"]) == ([0.8, 0.999, 0.99], 7)
    assert defaults(optim_packages.StableAdamW(optim_args="kahan_sum=False"))["kahan_sum"] is False


def test_target_modules_that_are_none() -> None:
    with pytest.raises(ConfigError, match="names no linear layer"):
        make_optimizer(optim_packages.GaLoreAdamW(optim_target_modules=["attention"]), nn.Sequential(nn.Linear(4, 4)))


def lines(compose: Compose, *overrides: str) -> list[str]:
    composition = compose(*overrides)
    found = composition.problems or list(check_calls(composition.config))  # type: ignore[arg-type]
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optim=muon", "parallel=zero2"], "ZeRO shards them; fix: parallel=fsdp"),
        (["optim=adafactor", "parallel=zero1"], "ZeRO shards them; fix: parallel=fsdp"),
        (["optim=adamw_torch_8bit", "parallel=fsdp"], "FSDP shards them; fix: parallel=ddp"),
        (["optim=adamw_8bit", "parallel=zero3"], "ZeRO shards them; fix: parallel=ddp"),
        (["optim=schedule_free_adamw", "parallel=fsdp"], "FSDP shards them"),
        (["optim=adamw_8bit", "optim.optim_bits=16"], "allowed: 8, 32"),
        (["optim=rprop", "optim.weight_decay=0.1"], "not taken by Rprop"),
        (["optim=galore_adamw", "optim.optim_target_modules=3"], "neither a text nor a list"),
        (["optim=galore_adamw", "optim.optim_target_modules='(a'"], "is not a valid regular expression"),
        (["optim=apollo_adamw", "optim.proj_type=full"], "not offered by apollo-torch"),
        (["optim=sgd", "optim.optim_args=momentum"], "momentum is not NAME=VALUE"),
        (["optim=sgd", "optim.optim_args={momentum: -1}"], "optim.momentum=-1"),
        (["optim=sgd", "optim.optim_args='momentum=high'"], "momentum is not a number"),
        (["optim=sgd", "optim.optim_args={nesterov: 1}"], "needs optim.momentum above 0"),
        (["optim=adamw", "optim.optim_args='capturabel=true'"], "did you mean capturable"),
        (["optim=ademamix", "optim.optim_args='beta5=0.1'"], "AdEMAMix takes no beta5"),
        (["optim=lomo", "train.max_grad_norm=1"], "excludes optim.layerwise=true"),
        (["optim=lomo", "train.gradient_accumulation_steps=2"], "fix: train.gradient_accumulation_steps=1"),
        (["optim=lomo", "train.nan_policy=skip"], "fix: train.nan_policy=rollback"),
        (["optim=lomo", "precision=fp16"], "fix: precision.fp16=false"),
        (["optim=lomo", "launch.nproc_per_node=2"], "fix: launch.nproc_per_node=1"),
        (["optim=adalomo", "parallel=fsdp"], "fix: parallel=single"),
        (["optim=galore_adamw_layerwise", "parallel=zero2"], "fix: parallel=single"),
        (["optim=galore_adamw", "optim.layerwise=true"], "train.max_grad_norm=1.0 (default)"),
        (["optim=galore_adamw", "optim.optim_args='layerwise=true'"], "fix: optim.layerwise=VALUE"),
        (["optim=lion"], "fix: optim=lion_32bit"),
        (
            [
                "scheduler=warmup_stable_decay",
                "scheduler.num_decay_steps=9",
                "scheduler.warmup_ratio=0.11",
                "train.max_steps=10",
            ],
            "and 2 steps of warmup are more than train.max_steps=10; fix: scheduler.num_decay_steps=8",
        ),
        (["scheduler=greedy", "optim.learning_rate=1e-4"], "scheduler.min_lr=0.001 (default): is above"),
    ],
)
def test_rule(compose: Compose, overrides: list[str], words: str) -> None:
    found = lines(compose, *overrides)
    assert len(found) == 1, found
    assert words in found[0]


def test_a_layerwise_optimizer_is_one_word(compose: Compose) -> None:
    composition = compose("optim=adalomo")
    assert not composition.problems
    assert composition.config is not None
    assert composition.config.train.max_grad_norm == 0
    assert world_size(composition.config) == 1  # whatever GPUs there are
    assert not lines(compose, "optim=lomo", "optim.layerwise=false", "train.gradient_accumulation_steps=2")


@pytest.mark.parametrize("option", ["muon", "adafactor", "adamw", "adam", "rprop"])
def test_what_fsdp_may_shard(compose: Compose, option: str) -> None:
    assert not lines(compose, f"optim={option}", "parallel=fsdp")
