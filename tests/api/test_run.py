"""A run's directory, opened: finished, failed, still going on, or none at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer import Run, Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = tmp_path_factory.mktemp("api") / "run"
    words = ("experiment=digits", "train.max_steps=90", "run.use_cpu=true", "logging=[]")
    return Trainer(*words, f"hydra.run.dir={directory}").train()


def test_it_shows_what_its_files_hold(run: Run) -> None:
    opened = Run(str(run.directory))
    assert opened.status == "completed"
    assert opened.config.optim.learning_rate == 1e-2
    assert opened.config.train.max_steps == 90
    lines = (run.directory / "metrics.jsonl").read_text().splitlines()
    assert opened.history == [json.loads(line) for line in lines]
    assert opened.metrics["train_loss"] == opened.history[-1]["train_loss"]
    assert opened.metrics["loss"] == [r for r in opened.history if "loss" in r][-1]["loss"]
    assert not {"step", "epoch", "time"} & opened.metrics.keys()
    assert opened.best is not None
    assert opened.best["value"] == min(r["eval_loss"] for r in opened.history if "eval_loss" in r)
    assert repr(opened) == f"Run('{run.directory}', status='completed')"


def test_its_model_has_the_final_weights(run: Run) -> None:
    from safetensors.torch import load_file

    model = run.model()
    assert not model.training
    saved = load_file(run.directory / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())


def test_a_line_that_is_being_written_is_left_out(run: Run, tmp_path: Path) -> None:
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / name).write_bytes((run.directory / name).read_bytes())
    whole = (run.directory / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 1')
    assert Run(tmp_path).history == run.history


def test_a_directory_without_a_run_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run: there is no manifest\.json in it"):
        Run(tmp_path)


def test_a_run_without_weights_says_how_it_stands(run: Run, tmp_path: Path) -> None:
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / name).write_bytes((run.directory / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no model/: the run is completed"):
        Run(tmp_path).model()
    assert Run(tmp_path).history == []
    assert Run(tmp_path).metrics == {}
