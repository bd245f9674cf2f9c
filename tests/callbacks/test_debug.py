"""run.debug=underflow_overflow: the first bad number ends the run, and its place is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import jobs
from tests.jobs import make_config
from tests.tiny import Blocks
from tests.train.test_resume import assert_same
from trainer.callbacks.debug import NumberOverflow, Overflow, watchers
from trainer.schema.run import Run
from trainer.state import Control, State


class Overflows(Blocks):
    """Its third block's input becomes infinite at the fifth call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for i, block in enumerate(self.blocks):
            x = block(x / 0 if self.calls == 5 and i == 2 else x)
        output: Tensor = self.head(x)
        return output


def test_it_names_step_batch_and_module(caplog: pytest.LogCaptureFixture) -> None:
    model = Overflows()
    overflow = Overflow(model)
    for step in range(2):
        overflow.on_step_begin(State(step=step), Control())
        for _ in range(2):
            model(torch.randn(2, 97))
    overflow.on_step_begin(State(step=2), Control())
    where = r"step 3, micro-batch 1, module blocks.2.norm \(LayerNorm\), input"
    with pytest.raises(NumberOverflow, match=where):
        model(torch.randn(2, 97))
    assert "blocks.1 (Block) output: " in caplog.text
    assert "blocks.2.norm (LayerNorm) input: inf to inf" in caplog.text


def test_evaluation_is_not_watched() -> None:
    model = Overflows()
    Overflow(model)
    model.calls = 4
    model.eval()(torch.randn(2, 97))


def debugged(**sections: object) -> object:
    return make_config(run=Run(output_dir="unused", seed=3, use_cpu=True, debug="underflow_overflow"), **sections)


def test_a_run_ends_where_it_happens(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = debugged(model={"_target_": "tests.callbacks.test_debug.Overflows"})
    assert jobs.train(config, tmp_path / "run") == [1]  # type: ignore[arg-type]
    assert "step 3, micro-batch 1, module blocks.2.norm (LayerNorm), input" in capfd.readouterr().err


def test_a_healthy_run_is_the_same_run(tmp_path: Path) -> None:
    assert jobs.train(make_config(), tmp_path / "plain") == [0]
    assert jobs.train(debugged(), tmp_path / "run") == [0]  # type: ignore[arg-type]
    assert_same(tmp_path / "run", tmp_path / "plain")


def test_tpu_metrics_need_torch_xla() -> None:
    with pytest.raises(ModuleNotFoundError, match="torch_xla"):
        watchers("tpu_metrics_debug", Blocks())
