"""A run's config.yaml comes back as the typed tree that was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from trainer.config.composer import Composition
from trainer.config.restore import restore
from trainer.errors import ConfigError
from trainer.run.directory import plain

OVERRIDES = [
    [],
    ["experiment=digits", "callbacks=early_stopping"],
    ["experiment=hf_gpt2_tiny", "parallel=zero3", "parallel.offload_optimizer=cpu"],
    ["optim=muon", "scheduler=cosine_with_min_lr", "scheduler.min_lr=1e-6", "precision=bf16", "parallel=fsdp"],
    ["logging=[console,csv,wandb]", "logging.reporters.wandb.mode=offline", "checkpoint.save_total_limit=2"],
    ["model._target_=tests.tiny.Own", "model.width=3", "cluster=slurm", "optim._target_=torch.optim.SGD"],
    ["data.eval_dataset={a:{_target_:my.Own},b:{_target_:my.Own,x:[1,2]}}"],
]


def written(composition: Composition, directory: Path) -> Path:
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(plain(composition.config), sort_keys=False))
    return path


@pytest.mark.parametrize("overrides", OVERRIDES, ids=lambda words: " ".join(words) or "default")
def test_the_tree_is_the_one_that_was_written(
    compose: Callable[..., Composition], tmp_path: Path, overrides: list[str]
) -> None:
    composition = compose(*overrides)
    assert composition.config is not None
    assert restore(written(composition, tmp_path)) == composition.config


def test_a_field_that_this_release_lacks_is_named(compose: Callable[..., Composition], tmp_path: Path) -> None:
    path = written(compose(), tmp_path)
    path.write_text(path.read_text().replace("max_grad_norm:", "max_grad_normal:"))
    with pytest.raises(ConfigError, match=r"train\.max_grad_normal \(.*config\.yaml\): does not fit this release"):
        restore(path)


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("run: {seed: 3\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:\d"):
        restore(path)
