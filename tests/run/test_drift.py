"""A config beside the one its checkpoint was written with: what may differ, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config.composer import compose
from trainer.errors import ConfigError
from trainer.run import directory as run_directory
from trainer.run.claim import claim
from trainer.schema import OPTIONS
from trainer.schema.drift import changes, decisive, leaves_of
from trainer.schema.fields import Drift
from trainer.schema.tree import leaves, sections
from trainer.secrets import mask

BEFORE = ["model=mlp", "data=digits", "task=classification", "optim=adamw", "scheduler=linear", "train.max_steps=6"]


def write_run(directory: Path, *overrides: str, with_config: bool = True, step: int = 3) -> Path:
    """A run's directory with one checkpoint, as far as a look at its config goes."""
    config = compose([*BEFORE, *overrides]).config
    assert config
    run_directory.create(directory, exact=True)
    run_directory.begin(directory, config=config, overrides=[], argv=[])
    run_directory.finish(directory, run_directory.Status.preempted)
    checkpoint = directory / "checkpoints" / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    state = {"config": run_directory.decisive_values(config)} if with_config else {}
    (checkpoint / "state.json").write_text(json.dumps(state))
    return checkpoint


def resume(*overrides: str) -> list[str]:
    """The lines that a command ends with; none where it resumes."""
    composition = compose([*overrides])
    assert composition.config, composition.problems
    try:
        claim(composition, composition.config)
    except ConfigError as error:
        return error.lines()
    return []


REFUSED = [
    ("optim.learning_rate=1.0", "optim.learning_rate=1.0 (command line): the checkpoint was written with 0.0015; "
     "fix: checkpoint.allow_drift=[optim.learning_rate]"),
    ("run.seed=7", "run.seed=7 (command line): the checkpoint was written with 42; "
     "fix: checkpoint.allow_drift=[run.seed]"),
    ("precision.bf16=true", "precision.bf16=true (command line): the checkpoint was written with false; "
     "fix: checkpoint.allow_drift=[precision.bf16]"),
    ("train.per_device_train_batch_size=2", "train.per_device_train_batch_size=2 (command line): the checkpoint was "
     "written with 4; fix: checkpoint.allow_drift=[train.per_device_train_batch_size]"),
    ("train.max_steps=9", "train.max_steps=9 (command line): the checkpoint was written with 6; "
     "fix: checkpoint.allow_drift=[train.max_steps]"),
    ("scheduler=cosine", "scheduler=cosine (command line): the checkpoint was written with linear; "
     "fix: checkpoint.allow_drift=[scheduler]"),
    ("data.train_dataset.split=eval", "data.train_dataset.split=eval (command line): the checkpoint was written with "
     "train; fix: checkpoint.allow_drift=[data.train_dataset.split]"),
    ("optim=sgd", "optim=sgd (command line): the checkpoint was written with adamw, whose state does not fit; "
     "fix: optim=adamw, or a run of its own"),
    ("model.sizes=[64,32,10]", "model.sizes=[64,32,10] (command line): the checkpoint was written with [64,128,10], "
     "whose state does not fit; fix: model.sizes=[64,128,10], or a run of its own"),
]  # fmt: skip
FREE = ["logging.logging_steps=1", "logging=csv", "run.run_name=x", "run.output_dir=y", "checkpoint.save_steps=1",
        "evaluation.eval_steps=3", "launch.nproc_per_node=2", "parallel=zero3", "optim=adamw_fused", "run.use_cpu=true",
        "data.dataloader_num_workers=2", "hub.hub_private_repo=true", "run.do_predict=false"]  # fmt: skip


def command(*changed: str) -> list[str]:
    """BEFORE with other values; each key stands once."""
    keys = {word.partition("=")[0] for word in changed}
    return [*(word for word in BEFORE if word.partition("=")[0] not in keys), *changed]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run").parents[1]


@pytest.mark.parametrize(("override", "line"), REFUSED, ids=[override for override, _ in REFUSED])
def test_what_differs_is_refused_and_nothing_is_written(run: Path, override: str, line: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    words = command(override, f"hydra.run.dir={run}", "checkpoint.resume_from_checkpoint=auto")
    lines = resume(*words)
    assert line in lines
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("override", [o for o, line in REFUSED if "allow_drift" in line])
def test_a_decision_that_is_named_is_taken(run: Path, override: str) -> None:
    words = command(override, f"hydra.run.dir={run}", "checkpoint.resume_from_checkpoint=auto")
    key = resume(*words)[0].partition("allow_drift=[")[2].rstrip("]")
    assert resume(*words, f"checkpoint.allow_drift=[{key}]") == []
    assert resume(*words, f"checkpoint.allow_drift=[{key.split('.')[0]}]") == []


@pytest.mark.parametrize("override", FREE)
def test_what_is_free_resumes_and_counts_in_no_hash(run: Path, override: str) -> None:
    words = command(override)
    assert resume(*words, f"hydra.run.dir={run}", "checkpoint.resume_from_checkpoint=auto") == []
    config = compose(words).config
    assert config
    assert run_directory.newest_unfinished(run.parent, config) == run


def test_incompatible_keys_cannot_be_allowed(run: Path) -> None:
    words = command("model.sizes=[64,32,10]", f"hydra.run.dir={run}", "checkpoint.resume_from_checkpoint=auto")
    (line,) = resume(*words, "checkpoint.allow_drift=[model]")
    assert "whose state does not fit" in line


def test_one_line_per_key_and_one_fix_for_all(run: Path) -> None:
    words = command("optim.learning_rate=1.0", "run.seed=7", f"hydra.run.dir={run}")
    lines = resume(*words, "checkpoint.resume_from_checkpoint=auto")
    assert [line.split("=")[0] for line in lines] == ["run.seed", "optim.learning_rate"]
    assert all(line.endswith("fix: checkpoint.allow_drift=[run.seed,optim.learning_rate]") for line in lines)


def test_a_checkpoints_path_alone_is_enough(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run").rename(tmp_path / "checkpoint-3")
    to = (f"hydra.run.dir={tmp_path / 'new'}", f"checkpoint.resume_from_checkpoint={checkpoint}")
    assert len(resume(*command("optim.learning_rate=1.0", *to))) == 1
    assert not (tmp_path / "new").exists()
    assert resume(*command(*to)) == []


def test_a_checkpoint_of_an_older_release_is_compared_with_the_runs_config(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", with_config=False)
    words = command("optim.learning_rate=1.0", f"checkpoint.resume_from_checkpoint={checkpoint}")
    assert len(resume(*words)) == 1
    (tmp_path / "run" / "config.yaml").unlink()
    assert resume(*words) == []


def test_a_run_that_only_evaluates_may_differ(run: Path) -> None:
    words = command("optim.learning_rate=1.0", "run.do_train=false", "run.do_eval=true", f"hydra.run.dir={run}-eval")
    checkpoint = run / "checkpoints" / "checkpoint-3"
    assert resume(*words, f"checkpoint.resume_from_checkpoint={checkpoint}") == []


def test_allow_drift_names_keys_that_exist() -> None:
    (problem,) = compose([*BEFORE, "checkpoint.allow_drift=[optim.lerning_rate]"]).problems
    assert "there is no key optim.lerning_rate; did you mean optim.learning_rate" in str(problem)
    assert not compose([*BEFORE, "checkpoint.allow_drift=[optim,scheduler,data.train_dataset]"]).problems


def test_every_field_of_the_schema_has_a_class() -> None:
    config = compose([]).config
    assert config
    found = leaves_of(run_directory.plain(config))
    declared = {key for key in leaves() if key.rpartition(".")[0] in sections()}
    free = {key for key in declared & found.keys() if found[key][1] is Drift.free}
    fixed = declared & found.keys() - free
    assert {"logging.logging_steps", "checkpoint.save_steps", "launch.nnodes", "run.run_name"} <= free
    assert {"run.seed", "train.max_steps", "precision.bf16", "data.data_seed"} <= fixed


def plain(*overrides: str) -> dict[str, Any]:
    config = compose([*overrides]).config
    assert config
    tree: dict[str, Any] = mask(run_directory.plain(config))
    return tree


def test_a_field_of_another_release_is_no_change() -> None:
    tree = plain(*BEFORE)
    before = decisive(tree)
    del before["optim.amsgrad"]
    before["train.of_old"] = 1
    assert changes(before, tree) == []


def test_a_users_own_arguments_are_compared_by_name() -> None:
    own = "model={_target_: torch.nn.Linear, in_features: 3, out_features: 3}"
    before = decisive(plain(own))
    after = plain("model={_target_: torch.nn.Linear, in_features: 3, out_features: 3, bias: false}")
    assert [(c.key, c.drift, c.now) for c in changes(before, after)] == [("model.bias", Drift.decision, False)]
    assert [c.key for c in changes(decisive(after), plain(own))] == ["model.bias"]


@pytest.mark.parametrize("option", sorted(OPTIONS["optim"]))
def test_switches_between_kernels_are_free(option: str) -> None:
    cls = OPTIONS["optim"][option]
    node = {name: None for name in ("foreach", "fused") if name in cls.__dataclass_fields__}  # type: ignore[attr-defined]
    target = cls.__dataclass_fields__["_target_"].default  # type: ignore[attr-defined]
    found = leaves_of({"optim": {"_target_": target, **node}})
    assert all(found[f"optim.{name}"][1] is Drift.free for name in node)
    assert found["optim._target_"][1] is Drift.incompatible
