"""Losses, learning rates, gradient norms, evaluations, checkpoints: ours are transformers' Trainer's."""

from __future__ import annotations

import json
import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.agreement import parts, runs, table

ROWS = table.rows()


def assert_agrees(row: table.Row, directory: Path) -> None:
    if module := table.MODULES.get(row.arguments.get("optim", "")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the packages' own
            pytest.importorskip(module)
    with torch.compiler.set_stance("force_eager"):  # torchao's steps take 20 s to compile
        _assert_agrees(row, directory)


def _assert_agrees(row: table.Row, directory: Path) -> None:
    mine = runs.ours(row.kind, row.arguments, directory / "ours", *row.ours)
    best = "metric_for_best_model" in row.arguments or "load_best_model_at_end" in row.arguments
    dropout: dict[str, Any] = {"dropout": 0.3} if "model.dropout=0.3" in row.ours else {}
    his = runs.theirs(row.kind, row.arguments | row.remedy, directory / "theirs", **row.settings(), **dropout)
    differences = runs.compare(mine, his, best=best)
    for name in row.ignored:
        del differences.numbers[name]
    if path := os.environ.get("AGREEMENT_REPORT"):
        with open(path, "a") as file:
            print(json.dumps({"row": row.name, "tolerance": row.tolerance, **differences.numbers}), file=file)
    beyond = differences.beyond(row.tolerance)
    if beyond and not differences.rest:  # a chaotic run: Adafactor with a large learning rate, for one
        arguments, settings = row.arguments | row.remedy, row.settings()
        nudged = runs.theirs(row.kind, arguments, directory / "nudged", nudged=True, **settings, **dropout)
        beyond = differences.beyond(row.tolerance, runs.compare(nudged, his, best=best))
    assert not beyond, f"{row.name}: {beyond}"
    if row.on_purpose:
        plain = runs.theirs(row.kind, row.arguments, directory / "plain", **dropout)
        assert runs.compare(mine, plain, best=best).beyond(row.tolerance), (
            f"{row.name}: no difference to explain: {row.on_purpose}"
        )


def test_the_table_holds_sixty_different_combinations() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_runs_agree(row: table.Row, tmp_path: Path) -> None:
    assert_agrees(row, tmp_path)


@pytest.mark.slow
def test_the_last_checkpoint_stays_where_the_trainer_removes_it_for_a_better_one(tmp_path: Path) -> None:
    best = {"save_total_limit": 1, "load_best_model_at_end": True, "learning_rate": 0.1}
    arguments = best | {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    mine = runs.ours("plain", arguments, tmp_path / "ours")
    his = runs.theirs("plain", arguments, tmp_path / "theirs")
    (kept,) = his.checkpoints
    assert mine.checkpoints == {kept, "checkpoint-14"} != his.checkpoints
    mine.checkpoints = his.checkpoints
    assert not runs.compare(mine, his, best=True).beyond(runs.TOLERANCE)


@pytest.mark.slow
def test_a_dropped_last_update_is_the_same_in_any_split_where_the_trainer_keeps_its_whole_micro_batches(
    tmp_path: Path,
) -> None:
    arguments = {"dataloader_drop_last": True, "num_train_epochs": 2, "gradient_accumulation_steps": 4}
    assert len(runs.theirs("plain", arguments, tmp_path / "theirs").training) == 2 * 2  # 32 samples, 16 samples
    split = runs.ours("plain", arguments, tmp_path / "split")
    whole = runs.ours("plain", {"dataloader_drop_last": True, "per_device_train_batch_size": 32}, tmp_path / "whole")
    assert len(split.training) == 2 * 1
    assert not runs.compare(split, whole, best=True).beyond(runs.TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(int(os.environ.get("AGREEMENT_DRAWS", "20"))))
def test_combinations_that_nobody_chose_agree(number: int, tmp_path: Path) -> None:
    assert_agrees(draw(random.Random(f"agreement {number}")), tmp_path)


def draw(dice: random.Random) -> table.Row:
    """A combination at random."""
    kind = dice.choice(["plain", "scored", "wide", "gpt2", "ragged"])
    steps = dice.randint(9, 16)  # warmup_stable_decay needs 9
    accumulation, batch = dice.choice([1, 1, 2, 3, 4]), dice.randint(2, 12)
    arguments: dict[str, Any] = table.optimizer(dice.choice([*table.OPTIMIZERS, *table.PACKAGED]))
    arguments |= dice.choice([*table.SCHEDULES, table.PLATEAU]) | {
        "seed": dice.randrange(1000),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "per_device_eval_batch_size": dice.randint(1, 24),
        "weight_decay": dice.choice([0.0, 0.1]),
        "max_grad_norm": dice.choice([0.0, 0.1, 1.0, 10.0]),
        "bf16": dice.random() < 0.3,
        "label_smoothing_factor": dice.choice([0.0, 0.0, 0.1]),
        "logging_steps": dice.choice([1, 1, 1, 2, 0.2]),
        "logging_first_step": dice.random() < 0.5,
        "save_strategy": (saving := dice.choice(["no", "steps", "epoch"])),
    }
    if saving == "steps":
        arguments["save_steps"] = dice.choice([3, 0.35])
    if "eval_strategy" not in arguments:
        arguments["eval_strategy"] = dice.choice(["no", "steps", "epoch"])
    if arguments["eval_strategy"] != "no":
        arguments |= {"eval_delay": dice.choice([0, 0, 1.3]), "eval_on_start": dice.random() < 0.3}
    if arguments["eval_strategy"] == "steps":
        arguments.setdefault("eval_steps", dice.choice([2, 3, 0.4, None]))
    updates = -(-parts.SAMPLES // (batch * accumulation))
    arguments |= {"max_steps": steps} if dice.random() < 0.5 else {"num_train_epochs": round(steps / updates, 2)}
    ragged = accumulation > 1 and parts.SAMPLES % batch and parts.SAMPLES % (batch * accumulation) > batch
    if not ragged or kind in ("gpt2", "ragged") or ("max_steps" in arguments and steps < updates):
        return table.Row(kind, arguments)
    if arguments["label_smoothing_factor"]:  # compute_loss_func, which weighs samples, replaces it
        arguments |= {"label_smoothing_factor": 0.0}
    return table.Row(
        kind,
        arguments,
        on_purpose=table.WEIGHTS,
        settings=lambda: {"compute_loss_func": runs.mean_over_samples},
    )
