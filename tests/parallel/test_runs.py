"""Whole runs on meshes: groups that share batches see, count and evaluate what one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.jobs import make_config
from tests.tiny import PLAIN
from trainer.logging.jsonl import read
from trainer.schema.data import Data
from trainer.schema.logging import Logging, TokenCount
from trainer.schema.memory import Memory
from trainer.schema.parallel import FSDP, DeepSpeed, Mesh, Single
from trainer.schema.task import Classification
from trainer.schema.train import Train

ACCURACY = {"_target_": "torchmetrics.classification.MulticlassAccuracy", "num_classes": 10}


def config(node: Any, data_ranks: int, **sections: Any) -> Any:
    return make_config(
        model={"_target_": "tests.tiny.Stack"},
        data=Data(train_dataset=PLAIN, eval_dataset=PLAIN),
        train=Train(per_device_train_batch_size=8 // data_ranks, gradient_accumulation_steps=1, num_train_epochs=2.0),
        logging=Logging(logging_steps=1, include_num_input_tokens_seen=TokenCount.all),
        parallel=node,
        task=Classification(metrics={"accuracy": ACCURACY}),
        **sections,
    )


def numbers(directory: Path, key: str) -> list[float]:
    return [record[key] for record in read(directory / "metrics.jsonl") if key in record]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in one process."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    assert jobs.train(config(Single(), 1), directory) == [0]
    return directory


MESHES = {
    "tp of 2": (Mesh(tp_size=2), 2, 1),
    "2 x tp of 2": (Mesh(tp_size=2), 4, 2),
    "2 copies": (Mesh(dp_replicate_size=2), 2, 2),
    "sparing": (FSDP(cpu_ram_efficient_loading=True), 2, 2),
    "zero0": (DeepSpeed(zero_stage=0), 2, 2),
}


@pytest.mark.parametrize("name", MESHES)
def test_a_run_on_a_mesh_is_the_run_of_one_process(name: str, alone: Path, tmp_path: Path) -> None:
    node, ranks, data_ranks = MESHES[name]
    assert jobs.train(config(node, data_ranks), tmp_path / "run", world_size=ranks) == [0] * ranks
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy", "num_input_tokens_seen"):
        assert numbers(tmp_path / "run", key), key
        assert numbers(tmp_path / "run", key) == pytest.approx(numbers(alone, key), abs=2e-5), key
    assert len(numbers(tmp_path / "run", "loss")) == jobs.STEPS


def test_resumed_on_a_mesh(tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    node = Mesh(tp_size=2)
    assert jobs.train(config(node, 1), whole, world_size=2) == [0, 0]
    stopped = config(node, 1, callbacks={"kill": {"_target_": "tests.jobs.KillAt", "step": 8}})
    assert jobs.train(stopped, again, world_size=2) != [0, 0]
    assert jobs.train(config(node, 1), again, world_size=2, resume="auto") == [0, 0]
    assert jobs.state(again) == jobs.state(whole)
    assert numbers(again, "loss") == numbers(whole, "loss")


@pytest.mark.parametrize("node", [FSDP(), Mesh(tp_size=2)], ids=["fsdp", "tp"])
def test_recomputed_activations_are_the_same(node: Any, alone: Path, tmp_path: Path) -> None:
    ranks = 1 if isinstance(node, Mesh) else 2
    made = config(node, ranks, memory=Memory(activation_checkpointing=True))
    assert jobs.train(made, tmp_path / "run", world_size=2) == [0, 0]
    assert numbers(tmp_path / "run", "loss") == pytest.approx(numbers(alone, "loss"), abs=2e-5)
