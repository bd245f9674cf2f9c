"""Every generator goes on where it was, through JSON."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from trainer.checkpoint import files
from trainer.rng import capture_rng, restore_rng


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.standard_normal()),
        float(np.random.random()),
        *torch.randn(3).tolist(),
        *torch.nn.functional.dropout(torch.ones(20), 0.5).tolist(),
        *torch.randperm(5).tolist(),
    ]


def test_draws_repeat_after_a_restore_through_json() -> None:
    draw()  # an odd number of gaussians: the second of a pair waits in the state
    state = json.loads(files.dumps(capture_rng()))
    first = draw()
    draw()
    restore_rng(state)
    assert draw() == first


@pytest.mark.parametrize("left_out", ["torch", "random", "numpy"])
def test_a_generator_left_out_shows(left_out: str) -> None:
    state = capture_rng()
    first = draw()
    restore_rng(state | {left_out: capture_rng()[left_out]})
    assert draw() != first


def test_capturing_draws_nothing() -> None:
    torch.manual_seed(0)
    first = torch.randn(2).tolist()
    torch.manual_seed(0)
    capture_rng()
    assert torch.randn(2).tolist() == first


def test_another_process_goes_on(tmp_path: object) -> None:
    code = (
        "import json, sys, torch, random; from trainer.rng import restore_rng\n"
        "restore_rng(json.load(sys.stdin)); print(json.dumps([random.random(), torch.randn(3).tolist()]))"
    )
    state = files.dumps(capture_rng())
    out = subprocess.run(
        [sys.executable, "-c", code], input=state, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(out.stdout) == [random.random(), torch.randn(3).tolist()]


@pytest.mark.gpu
def test_cuda_generators() -> None:
    torch.randn(3, device="cuda")
    state = json.loads(files.dumps(capture_rng()))
    assert len(state["cuda"]) == torch.cuda.device_count()
    first = torch.randn(5, device="cuda").tolist()
    restore_rng(state)
    assert torch.randn(5, device="cuda").tolist() == first
