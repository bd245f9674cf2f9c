"""A run that was interrupted anywhere and went on is the one that was not: same digests, same logged numbers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.jobs import PREEMPTED, STEPS, STOPPED, make_config
from tests.ranks import exit_code, exit_codes, wait
from trainer import rng
from trainer.checkpoint import digest, shard
from trainer.data.train_data import TrainData
from trainer.schema import Config
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.data import Data
from trainer.schema.optim import SGD
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Single
from trainer.schema.precision import Precision
from trainer.schema.scheduler import ReduceLROnPlateau
from trainer.schema.train import Train
from trainer.train import session as runner
from trainer.train.interrupts import Interrupts
from trainer.train.resumption import resume

KILLED = [-signal.SIGKILL]


def killed_at(step: int, number: int = signal.SIGKILL, rank: int | None = None) -> dict[str, Any]:
    return {"kill": {"_target_": "tests.jobs.KillAt", "step": step, "number": int(number), "rank": rank}}


def workers(number: int) -> Data:
    dataset = {"_target_": "tests.tiny.Augmented"}
    return Data(train_dataset=dataset, eval_dataset=dataset, dataloader_num_workers=number)


VARIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": dict,
    "workers": lambda: {"data": workers(2)},
    "fp16": lambda: {"precision": Precision(fp16=True)},
    "bf16": lambda: {"precision": Precision(bf16=True)},
    "async": lambda: {"checkpoint": Checkpoint(save_steps=1, async_save=True)},
    "sgd": lambda: {"optim": SGD(learning_rate=0.1, momentum=0.9)},
    "plateau": lambda: {"scheduler": ReduceLROnPlateau(patience=0, factor=0.5)},
    "one_sample": lambda: {
        "train": Train(per_device_train_batch_size=1, gradient_accumulation_steps=3, max_steps=STEPS)
    },
}


def assert_same(one: Path, other: Path) -> None:
    last = max(int(path.name.rpartition("-")[2]) for path in (other / "checkpoints").iterdir())
    differences = digest.differences(jobs.state(one, last), jobs.state(other, last))
    assert [name for name in differences if not name.startswith("state.config.")] == []  # what was asked for
    assert jobs.logged(one) == jobs.logged(other)
    weights = "model/model.safetensors"
    assert (one / weights).read_bytes() == (other / weights).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert jobs.train(make_config(), directory) == [0]
    return directory


def test_the_run_repeats(whole: Path, tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path / "run") == [0]
    assert_same(tmp_path / "run", whole)
    records = jobs.logged(whole)
    assert [record["step"] for record in records if "loss" in record] == [float(s).hex() for s in range(2, 15, 2)]
    assert len(jobs.state(whole)) > 26 * 3


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_after_any_step(whole: Path, tmp_path: Path, step: int) -> None:
    assert jobs.train(make_config(callbacks=killed_at(step)), tmp_path / "run") == KILLED
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "plain"])
@pytest.mark.parametrize("step", [5, 11])
def test_killed_whatever_the_config(tmp_path: Path, variant: str, step: int) -> None:
    assert jobs.train(make_config(**VARIANTS[variant]()), tmp_path / "whole") == [0]
    assert jobs.train(make_config(callbacks=killed_at(step), **VARIANTS[variant]()), tmp_path / "run") == KILLED
    assert jobs.train(make_config(**VARIANTS[variant]()), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_workers_make_no_difference(whole: Path, tmp_path: Path) -> None:
    assert jobs.train(make_config(data=workers(2), callbacks=killed_at(8)), tmp_path / "run") == KILLED
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_again_and_again(whole: Path, tmp_path: Path, seed: int) -> None:
    directory, moments, kills = tmp_path / "run", random.Random(seed), 0
    begin = time.monotonic()
    assert jobs.train(make_config(), tmp_path / "timed") == [0]
    usual = time.monotonic() - begin
    code = None
    while code != 0:
        child = jobs.start(make_config(), directory, resume="auto")
        time.sleep(usual * moments.uniform(0.05, 0.7 + 0.1 * kills))
        os.kill(child, signal.SIGKILL)
        code = wait(child)
        kills += code == -signal.SIGKILL
        assert kills < 40, "never came to its end"
    assert_same(directory, whole)
    assert not [path.name for path in (directory / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("place", ["after_directory", "after_shard", "after_json", "before_rename", "after_rename"])
def test_killed_in_the_middle_of_a_save(whole: Path, tmp_path: Path, place: str) -> None:
    time_ = {"after_shard": 150, "after_json": 4}.get(place, 2)  # in the second save of the run
    assert jobs.train(make_config(), tmp_path / "run", failpoints=f"checkpoint.{place}#{time_}=kill9") == KILLED
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, PREEMPTED), (signal.SIGUSR1, PREEMPTED), (signal.SIGINT, STOPPED)]
)
def test_signals_save_and_go_on(whole: Path, tmp_path: Path, number: int, code: int) -> None:
    assert jobs.train(make_config(callbacks=killed_at(7, number)), tmp_path / "run") == [code]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-7").is_dir()
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", whole)


def test_a_damaged_newest_checkpoint_costs_steps_not_bits(whole: Path, tmp_path: Path) -> None:
    assert jobs.train(make_config(callbacks=killed_at(10)), tmp_path / "run") == KILLED
    file = tmp_path / "run" / "checkpoints" / "checkpoint-9" / shard.file_name(0)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", whole)


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(whole: Path, tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path / "run", failpoints="checkpoint.after_shard#150=enospc") == [1]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", whole)


def test_only_damaged_checkpoints_never_start_from_zero(tmp_path: Path) -> None:
    assert jobs.train(make_config(callbacks=killed_at(5)), tmp_path / "run") == KILLED
    (tmp_path / "run" / "checkpoints" / "checkpoint-3" / "state.json").write_bytes(b"{}")
    assert jobs.train(make_config(), tmp_path / "run", resume="auto") == [1]


@pytest.mark.parametrize(
    "changed", [{"save_steps": 1}, {"save_steps": 14}, {"save_steps": 5, "save_total_limit": 1}], ids=str
)
def test_saving_more_or_less_often_changes_nothing(whole: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    assert jobs.train(make_config(checkpoint=Checkpoint(**changed)), tmp_path / "run") == [0]
    assert_same(tmp_path / "run", whole)


# Several ranks ------------------------------------------------------------------------------------------------

ENGINES = [
    pytest.param(DDP, 2, id="ddp-2"),
    pytest.param(DDP, 3, id="ddp-3"),
    pytest.param(FSDP, 2, id="fsdp-2"),
    *(
        pytest.param(lambda stage=stage: DeepSpeed(zero_stage=stage), 2, id=f"zero{stage}-2", marks=pytest.mark.slow)
        for stage in (2, 3)
    ),
]


def config_of_ranks(parallel: Callable[[], Any], **sections: Any) -> Config:
    """2 epochs, each with a last update that is short and not a multiple of the ranks."""
    train = Train(per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=2.0)
    return make_config(**{"parallel": parallel(), "train": train} | sections)


def same_updates(ranks: int) -> Train:
    """12 samples per update on 1 to 4 ranks."""
    return Train(per_device_train_batch_size=1, gradient_accumulation_steps=12 // ranks, num_train_epochs=2.0)


@pytest.mark.parametrize(("parallel", "ranks"), ENGINES)
def test_killed_ranks_go_on(tmp_path: Path, parallel: Callable[[], Any], ranks: int) -> None:
    assert jobs.train(config_of_ranks(parallel), tmp_path / "whole", world_size=ranks) == [0] * ranks
    config = config_of_ranks(parallel, callbacks=killed_at(5))
    assert jobs.train(config, tmp_path / "run", world_size=ranks) == KILLED * ranks
    assert jobs.train(config_of_ranks(parallel), tmp_path / "run", world_size=ranks, resume="auto") == [0] * ranks
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("rank", [0, 1])
def test_one_signalled_rank_stops_all_at_the_same_step(tmp_path: Path, rank: int) -> None:
    assert jobs.train(config_of_ranks(DDP), tmp_path / "whole", world_size=2) == [0, 0]
    config = config_of_ranks(DDP, callbacks=killed_at(5, signal.SIGTERM, rank))
    assert jobs.train(config, tmp_path / "run", world_size=2) == [PREEMPTED, PREEMPTED]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-5").is_dir()
    assert jobs.train(config_of_ranks(DDP), tmp_path / "run", world_size=2, resume="auto") == [0, 0]
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("rank", [0, 1])
def test_one_killed_rank_ends_all_and_they_go_on(tmp_path: Path, rank: int) -> None:
    assert jobs.train(config_of_ranks(DDP), tmp_path / "whole", world_size=2) == [0, 0]
    codes = jobs.train(config_of_ranks(DDP, callbacks=killed_at(8, rank=rank)), tmp_path / "run", world_size=2)
    assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1)
    assert jobs.train(config_of_ranks(DDP), tmp_path / "run", world_size=2, resume="auto") == [0, 0]
    assert_same(tmp_path / "run", tmp_path / "whole")


# Another topology ---------------------------------------------------------------------------------------------


def load_and_save(config: Config, directory: Path, copy: Path, change: Callable[[runner.Session], object]) -> None:
    """Load a run's newest checkpoint, change something, and save what there is now."""
    config.checkpoint.resume_from_checkpoint = "auto"
    with Interrupts() as interrupts:
        session = runner.Session(config, directory, interrupts)
        resume(config, session.checkpointer, session.data)
        change(session)
        session.checkpointer.root = copy
        session.checkpointer.save()
        session.close("stopped")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((DDP, 2), id="from-ddp-2"),
        pytest.param((FSDP, 3), id="from-fsdp-3"),
        pytest.param((lambda: DeepSpeed(zero_stage=2), 2), id="from-zero2-2", marks=pytest.mark.slow),
    ],
)
def of_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of several ranks whose newest checkpoint is of step 3."""
    parallel, ranks = request.param
    directory = tmp_path_factory.mktemp("ranks") / "run"
    config = config_of_ranks(parallel, callbacks=killed_at(4), train=same_updates(ranks))
    assert jobs.train(config, directory, world_size=ranks) == KILLED * ranks
    return directory


@pytest.mark.parametrize(
    ("parallel", "ranks"),
    [
        pytest.param(Single, 1, id="to-single"),
        pytest.param(DDP, 3, id="to-ddp-3"),
        pytest.param(FSDP, 4, id="to-fsdp-4"),
        pytest.param(lambda: DeepSpeed(zero_stage=1), 3, id="to-zero1-3", marks=pytest.mark.slow),
        pytest.param(lambda: DeepSpeed(zero_stage=3), 2, id="to-zero3-2", marks=pytest.mark.slow),
    ],
)
def test_another_topology_holds_the_same_state(
    of_ranks: Path, tmp_path: Path, parallel: Callable[[], Any], ranks: int
) -> None:
    def action() -> None:
        config = config_of_ranks(parallel, train=same_updates(ranks))
        load_and_save(config, of_ranks, tmp_path, lambda session: None)

    assert (exit_codes(action, ranks) if ranks > 1 else [exit_code(action)]) == [0] * ranks
    one, other = jobs.state(of_ranks, 3), digest.items(tmp_path / "checkpoint-3")
    elsewhere = ("rank-", "state.config.train.gradient_accumulation_steps")
    assert [name for name in digest.differences(one, other) if not name.startswith(elsewhere)] == []


# Negative controls: each item of the state, left out, is found and named ----------------------------------------


def resumed_state(directory: Path, copy: Path, change: Callable[[runner.Session], object]) -> None:
    load_and_save(make_config(precision=Precision(fp16=True)), directory, copy, change)


def lose_slot(session: runner.Session) -> None:
    parameter = session.trainee.module.get_parameter("blocks.1.up.weight")
    session.loop.optimizer.state[parameter]["exp_avg_sq"].zero_()


def lose_scale(session: runner.Session) -> None:
    scaler = session.trainee.engine._scaler  # type: ignore[attr-defined]
    scaler.load_state_dict(scaler.state_dict() | {"scale": 65536.0})


LOSSES: dict[str, Callable[[runner.Session], object]] = {
    "model/blocks.2.norm.bias": lambda s: s.trainee.module.get_parameter("blocks.2.norm.bias").data.zero_(),
    "optim/exp_avg_sq/blocks.1.up.weight": lose_slot,
    "rank-00000.rng.torch": lambda s: rng.torch.rand(1),
    "rank-00000.rng.random": lambda s: random.random(),
    "rank-00000.rng.numpy": lambda s: rng.sys.modules["numpy"].random.rand(),
    "rank-00000.meter.total": lambda s: s.loop.meter.total.zero_(),
    "state.data.step_in_epoch": lambda s: setattr(s.data, "step_in_epoch", 0),
    "state.data.epoch": lambda s: setattr(s.data, "epoch", 0),
    "state.scheduler.last_epoch": lambda s: setattr(s.scheduler, "last_epoch", 0),
    "state.state.best_metric": lambda s: setattr(s.state, "best_metric", None),
    "state.engine.scaler.scale": lose_scale,
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose newest checkpoint is of step 9, in mid-epoch and between two logs."""
    directory = tmp_path_factory.mktemp("interrupted") / "run"
    config = make_config(precision=Precision(fp16=True), callbacks=killed_at(10))
    assert jobs.train(config, directory) == KILLED
    return directory


def test_loading_and_saving_gives_the_same_checkpoint(interrupted: Path, tmp_path: Path) -> None:
    assert exit_code(lambda: resumed_state(interrupted, tmp_path, lambda session: None)) == 0
    assert digest.differences(jobs.state(interrupted, 9), digest.items(tmp_path / "checkpoint-9")) == []


@pytest.mark.parametrize("item", LOSSES)
def test_what_is_left_out_is_named(interrupted: Path, tmp_path: Path, item: str) -> None:
    assert exit_code(lambda: resumed_state(interrupted, tmp_path, LOSSES[item])) == 0
    ranks_mean = ["state.meter.total"] if item == "rank-00000.meter.total" else []
    differences = digest.differences(jobs.state(interrupted, 9), digest.items(tmp_path / "checkpoint-9"))
    assert differences == [item, *ranks_mean]


@pytest.mark.parametrize("left_out", ["rng", "cursor"])
def test_a_run_that_forgets_ends_elsewhere(
    whole: Path, tmp_path: Path, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jobs.train(make_config(callbacks=killed_at(5)), tmp_path / "run") == KILLED
    if left_out == "rng":
        monkeypatch.setattr(rng, "restore_rng", lambda state: None)
    else:
        load = TrainData.load_state_dict

        def forgetful(data: TrainData, saved: dict[str, int]) -> None:
            load(data, saved)
            data.step_in_epoch += 1

        monkeypatch.setattr(TrainData, "load_state_dict", forgetful)
    assert jobs.train(
        make_config(train=Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=STEPS)),
        tmp_path / "run",
        resume="auto",
    ) == [0]
    assert len(digest.differences(jobs.state(tmp_path / "run"), jobs.state(whole))) >= 26
    assert jobs.logged(tmp_path / "run") != jobs.logged(whole)
