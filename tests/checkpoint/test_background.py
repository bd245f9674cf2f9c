"""Checkpoints written beside the training are the ones that stop it, and a crash in the middle costs none."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests import jobs
from tests.jobs import make_config
from trainer.callbacks.callback import Callback
from trainer.checkpoint import digest
from trainer.checkpoint.background import Background
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.parallel import DDP, FSDP, Single
from trainer.state import Control, State


def test_the_caller_goes_on_and_wait_gives_the_result() -> None:
    background: Background[int] = Background()
    go = threading.Event()
    background.start(lambda: 7 if go.wait(10) else 0)
    go.set()
    assert background.wait() == 7
    assert background.wait() is None


def test_what_goes_wrong_is_raised_where_it_is_waited_for() -> None:
    background: Background[None] = Background()
    background.start(lambda: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        background.wait()


@pytest.mark.parametrize(("parallel", "world"), [(Single(), 1), (DDP(), 2), (FSDP(), 2)])
def test_the_same_checkpoints(tmp_path: Path, parallel: object, world: int) -> None:
    for name, saving in (("sync", False), ("async", True)):
        checkpoint = Checkpoint(save_steps=2, async_save=saving)
        config = make_config(parallel=parallel, checkpoint=checkpoint)
        assert jobs.train(config, tmp_path / name, world_size=world) == [0] * world
    assert jobs.logged(tmp_path / "sync") == jobs.logged(tmp_path / "async")
    for step in range(2, jobs.STEPS // world + 1, 2):
        assert digest.differences(jobs.state(tmp_path / "sync", step), jobs.state(tmp_path / "async", step)) == []


class Steps(Callback):
    """Writes down what each on_save is called with."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_save(self, state: State, control: Control, directory: Path) -> None:
        with open(self.path, "a") as file:
            file.write(f"{directory.name} {state.step} {state.epoch}\n")


def test_on_save_gets_the_state_of_its_checkpoint(tmp_path: Path) -> None:
    for name, saving in (("sync", False), ("async", True)):
        callbacks = {"steps": {"_target_": f"{__name__}.Steps", "path": str(tmp_path / f"{name}.txt")}}
        config = make_config(checkpoint=Checkpoint(save_steps=2, async_save=saving), callbacks=callbacks)
        assert jobs.train(config, tmp_path / name) == [0]
    assert (tmp_path / "async.txt").read_text() == (tmp_path / "sync.txt").read_text()


def test_the_steps_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    """Each save sleeps a second; the run's 14 steps are done before the first save is."""
    config = make_config(checkpoint=Checkpoint(save_steps=13, async_save=True))
    begin = time.monotonic()
    assert jobs.train(config, tmp_path / "run", failpoints="checkpoint.before_manifest=sleep:1") == [0]
    records = [r for r in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if '"step": 14' in r]
    assert records
    assert time.monotonic() - begin >= 2  # two saves, one after the other


def test_killed_in_the_middle(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save_steps=3, async_save=True)
    assert jobs.train(make_config(checkpoint=checkpoint), tmp_path / "whole") == [0]
    failpoints = "checkpoint.before_rename#2=kill9"
    assert jobs.train(make_config(checkpoint=checkpoint), tmp_path / "run", failpoints=failpoints) == [-9]
    assert [p.name for p in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    assert jobs.train(make_config(checkpoint=checkpoint), tmp_path / "run", resume="auto") == [0]
    assert digest.differences(jobs.state(tmp_path / "run"), jobs.state(tmp_path / "whole")) == []


@pytest.mark.parametrize("world", [1, 2])
def test_a_full_disk_ends_the_run(tmp_path: Path, world: int) -> None:
    config = make_config(parallel=DDP(), checkpoint=Checkpoint(save_steps=3, async_save=True))
    codes = jobs.train(config, tmp_path / "run", world_size=world, failpoints="checkpoint.after_shards#2=enospc")
    assert codes == [1] * world
