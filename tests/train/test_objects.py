"""Objects passed from Python in place of the config's: the run is the one whose config names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests import jobs, ranks
from tests.jobs import STEPS, make_config
from tests.tiny import Augmented, Blocks
from tests.train.test_resume import assert_same
from trainer.callbacks.callback import Callback
from trainer.logging.reporter import Reporter
from trainer.schema.data import Data
from trainer.schema.logging import Logging
from trainer.state import Control, RunInfo, State
from trainer.task.criterion import Criterion
from trainer.train.objects import Objects
from trainer.train.session import run


class Steps(Callback):
    def __init__(self) -> None:
        self.seen = 0

    def on_step_end(self, state: State, control: Control) -> None:
        self.seen += 1


class Heard(Reporter):
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def start(self, run: RunInfo) -> None: ...

    def log(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def finish(self, status: str) -> None: ...


def size(prediction: Any) -> dict[str, float]:
    return {"size": float(len(prediction.predictions))}


def test_the_run_is_the_one_whose_config_names_them(tmp_path: Path) -> None:
    named = make_config(model={"_target_": "tests.tiny.Blocks"}, task={"_target_": "torch.nn.CrossEntropyLoss"})
    assert jobs.train(named, tmp_path / "named") == [0]
    nowhere = {"_target_": "tests.nowhere.Nothing"}
    config = make_config(
        model=nowhere,
        task=nowhere,
        data=Data(train_dataset=nowhere, eval_dataset=nowhere),
        callbacks={"steps": nowhere},
        logging=Logging(logging_steps=2, reporters={"heard": nowhere}),
    )

    def passed() -> None:
        torch.manual_seed(3)  # as run.seed is when a config's model is built
        steps, heard, model = Steps(), Heard(), Blocks()
        objects = Objects(
            model=model,
            task=Criterion(nn.CrossEntropyLoss()),
            train_dataset=Augmented(),
            eval_dataset=Augmented(),
            callbacks={"steps": steps},
            reporters={"heard": heard},
        )
        ended = run(config, tmp_path / "passed", objects)
        assert ended.status == "completed"
        assert ended.model is model
        assert steps.seen == STEPS
        assert [r["step"] for r in heard.records if "loss" in r] == list(range(2, STEPS + 1, 2))

    jobs.begin(config, tmp_path / "passed")
    assert ranks.exit_code(passed) == 0
    assert_same(tmp_path / "passed", tmp_path / "named")


def test_what_evaluates_can_be_passed_too(tmp_path: Path) -> None:
    config = make_config()
    config.run.do_predict = True
    collated = []

    def collate(samples: list[Any]) -> Any:
        collated.append(len(samples))
        return torch.utils.data.default_collate(samples)

    def passed() -> None:
        heard = Heard()
        objects = Objects(
            eval_dataset={"whole": Augmented(), "again": Augmented()},
            predict_dataset=Augmented(),
            collate_fn=collate,
            compute_metrics=size,
            reporters={"heard": heard},
        )
        config.checkpoint.metric_for_best_model = "whole_loss"
        run(config, tmp_path, objects)
        keys = {key for record in heard.records for key in record}
        assert {"eval_whole_loss", "eval_again_size", "test_size"} <= keys
        assert collated

    jobs.begin(config, tmp_path)
    assert ranks.exit_code(passed) == 0
