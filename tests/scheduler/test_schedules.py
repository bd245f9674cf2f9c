"""The schedules against the golden values of transformers 5.23, and against its functions where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from trainer.scheduler import make_scheduler
from trainer.schema import OPTIONS
from trainer.schema import scheduler as schema

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "schedulers.json").read_text())["schedulers"]
RENAMED = {"lr_end": "learning_rate_end"}
BY_EVALUATION = {"reduce_lr_on_plateau", "greedy"}
CASES = [
    pytest.param(entry["name"], case, id=f"{entry['name']}-{i}")
    for entry in GOLDEN
    if entry["name"] not in BY_EVALUATION
    for i, case in enumerate(entry["golden"])
]


def optimizer(lr: float = 5e-5) -> torch.optim.SGD:
    layers = nn.Linear(2, 2), nn.Linear(2, 2)
    return torch.optim.SGD([{"params": layer.parameters()} for layer in layers], lr=lr)


def node(name: str, warmup: int, kwargs: dict[str, Any]) -> Any:
    kwargs = {RENAMED.get(key, key): value for key, value in kwargs.items()}
    for key in ("warmup_type", "decay_type"):
        if key in kwargs:
            kwargs[key] = schema.WarmupType(kwargs[key].replace("1-sqrt", "one_minus_sqrt"))
    return OPTIONS["scheduler"][name](**({} if name == "constant" else {"warmup_steps": warmup}), **kwargs)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_golden_multipliers(name: str, case: dict[str, Any]) -> None:
    opt = optimizer(case["base_lr"])
    scheduler = make_scheduler(node(name, case["w"], case["kwargs"]), opt, case["T"], mode="min")
    expected = {int(step): value for step, value in (case["values"] | case.get("extra_steps", {})).items()}
    for step in range(max(expected) + 1):
        if step in expected:
            for group in opt.param_groups:
                assert group["lr"] / case["base_lr"] == pytest.approx(expected[step], rel=1e-12, abs=1e-15)
        scheduler.step()


@pytest.mark.parametrize(("name", "case"), CASES)
def test_equals_transformers_to_the_bit(name: str, case: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    ours, theirs = optimizer(case["base_lr"]), optimizer(case["base_lr"])
    scheduler = make_scheduler(node(name, case["w"], case["kwargs"]), ours, case["T"], mode="min")
    if "num_stable_steps" in case["kwargs"]:
        with pytest.warns(UserWarning, match="num_stable_steps"):
            reference = transformers.get_scheduler(name, theirs, case["w"], case["T"], case["kwargs"])
    else:
        reference = transformers.get_scheduler(name, theirs, case["w"], case["T"], case["kwargs"])
    for _ in range(115):
        assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups]
        assert scheduler.get_last_lr() == reference.get_last_lr()
        theirs.step()
        scheduler.step()
        reference.step()


def test_every_offered_schedule_has_golden_values() -> None:
    assert set(OPTIONS["scheduler"]) == {entry["name"] for entry in GOLDEN}


def test_a_warmup_ratio_is_rounded_up() -> None:
    opt = optimizer()
    scheduler = make_scheduler(schema.Warmup(warmup_ratio=0.101), opt, 100, mode="min")
    for _ in range(10):
        assert opt.param_groups[0]["lr"] < 5e-5
        scheduler.step()
    assert opt.param_groups[0]["lr"] == 5e-5 * (10 / 11)


MEASURED = [
    pytest.param(entry["name"], case, id=f"{entry['name']}-{i}")
    for entry in GOLDEN
    if entry["name"] in BY_EVALUATION
    for i, case in enumerate(entry["golden"])
]


@pytest.mark.parametrize(("name", "case"), MEASURED)
def test_golden_multipliers_by_evaluation(name: str, case: dict[str, Any]) -> None:
    opt = optimizer(case["base_lr"])
    scheduler = make_scheduler(OPTIONS["scheduler"][name](**case["kwargs"]), opt, case["T"], mode="min")
    improving = case["metric_fed_each_step"].startswith("100 - t")
    expected = {int(step): value for step, value in (case["values"] | case.get("extra_steps", {})).items()}
    for step in range(max(expected) + 1):
        if step in expected:
            for group in opt.param_groups:
                assert group["lr"] / case["base_lr"] == pytest.approx(expected[step], rel=1e-12)
        scheduler.step(100.0 - step if improving else 1.0)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"patience": 0},
        {"patience": 1, "cooldown": 2, "warmup": 3},
        {"patience": 0, "threshold_mode": "rel", "threshold": 0.1},
        {"patience": 0, "reset_start": 2, "min_lr": 0.09},
        {"patience": 0, "smooth": True, "window_size": 3, "max_lr": 0.11},
    ],
)
def test_greedy_equals_transformers(kwargs: dict[str, Any], mode: Any) -> None:
    greedy = pytest.importorskip("transformers.optimization").GreedyLR
    ours, theirs = optimizer(0.1), optimizer(0.1)
    typed = kwargs | ({"threshold_mode": schema.ThresholdMode.rel} if "threshold_mode" in kwargs else {})
    scheduler = make_scheduler(schema.Greedy(**typed), ours, 1, mode=mode)
    reference = greedy(theirs, mode=mode, **kwargs)
    generator = torch.Generator().manual_seed(0)
    resumed = optimizer(0.1)
    again = make_scheduler(schema.Greedy(**typed), resumed, 1, mode=mode)
    for step in range(200):
        metric = (torch.rand((), generator=generator) - 0.004 * step * (1 if mode == "min" else -1)).item()
        scheduler.step(metric)
        reference.step(metric)
        assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups], step
        if step == 60:
            again.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
        elif step > 60:
            again.step(metric)
            assert again.get_last_lr() == scheduler.get_last_lr()


def test_a_learning_rate_that_is_a_tensor_is_changed_in_place() -> None:
    opt = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=torch.tensor(0.5))
    rate = opt.param_groups[0]["lr"]
    scheduler = make_scheduler(schema.Linear(), opt, 4, mode="min")
    scheduler.step()
    assert opt.param_groups[0]["lr"] is rate
    assert (rate.item(), scheduler.get_last_lr(), scheduler.base_lrs) == (0.375, [0.375], [0.5])


def test_plateau_follows_its_metric() -> None:
    opt = optimizer(1.0)
    scheduler = make_scheduler(schema.ReduceLROnPlateau(patience=0, factor=0.5), opt, 100, mode="max")
    assert isinstance(scheduler, ReduceLROnPlateau)
    for metric in (0.1, 0.2, 0.3):
        scheduler.step(metric)
    assert opt.param_groups[0]["lr"] == 1.0
    scheduler.step(0.2)
    assert opt.param_groups[0]["lr"] == 0.5


def test_the_state_is_json_and_goes_on_to_the_bit() -> None:
    opt, resumed = optimizer(), optimizer()
    node = schema.Cosine(warmup_steps=3)
    scheduler = make_scheduler(node, opt, 20, mode="min")
    for _ in range(7):
        scheduler.step()
    again = make_scheduler(node, resumed, 20, mode="min")
    again.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert isinstance(again, LRScheduler)
    for _ in range(10):
        assert again.get_last_lr() == scheduler.get_last_lr() == again.get_lr()
        again.step()
        scheduler.step()


def test_the_optimizer_is_left_as_it_is() -> None:
    opt = optimizer()
    make_scheduler(schema.Linear(), opt, 10, mode="min")
    assert "step" not in vars(opt)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (schema.Polynomial(learning_rate_end=1.0), "learning_rate_end"),
        (schema.CosineWithMinLR(), "min_lr_rate"),
        (schema.CosineWithMinLR(min_lr=1e-6, min_lr_rate=0.1), "min_lr_rate"),
        (schema.WarmupStableDecay(), "needs scheduler.num_decay_steps"),
        (schema.WarmupStableDecay(num_decay_steps=11), "10 steps"),
    ],
)
def test_contradictions_say_what_to_change(bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_scheduler(bad, optimizer(), 10, mode="min")


def test_torchs_own_scheduler_by_target() -> None:
    opt = optimizer(1.0)
    node = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5}
    scheduler = make_scheduler(node, opt, 10, mode="min")
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] == 0.5


def test_a_function_by_target_learns_the_number_of_steps() -> None:
    pytest.importorskip("transformers")
    opt = optimizer(1.0)
    node = {"_target_": "transformers.get_linear_schedule_with_warmup", "num_warmup_steps": 0}
    scheduler = make_scheduler(node, opt, 4, mode="min")
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] == 0.75


def test_torchs_own_plateau_by_target_learns_the_direction() -> None:
    node = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
    assert make_scheduler(node, optimizer(), 10, mode="max").mode == "max"
    assert make_scheduler(node | {"mode": "min"}, optimizer(), 10, mode="max").mode == "min"
