"""Formats: computed in 16 bits, answered in fp32, and nothing at all for fp32."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.devices import CPU
from trainer.precision import autocast_dtype, autocast_forward, make_scaler, set_tf32, to_fp32
from trainer.schema.precision import Precision


class Pair(NamedTuple):
    logits: Tensor
    ids: Tensor


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, *, labels: Tensor | None = None) -> dict[str, Any]:
        logits = self.linear(x)
        self.computed_in = logits.dtype
        return {"logits": logits, "nested": [Pair(logits, torch.arange(3))], "loss": logits.sum()}


def test_fp32_leaves_the_module_alone(device: torch.device) -> None:
    model = Model().to(device)
    autocast_forward(model, Precision(), device)
    assert "forward" not in vars(model)
    assert make_scaler(Precision(), device) is None


@pytest.mark.parametrize(
    ("precision", "dtype"), [(Precision(bf16=True), torch.bfloat16), (Precision(fp16=True), torch.float16)]
)
def test_16_bits_inside_fp32_outside(precision: Precision, dtype: torch.dtype, device: torch.device) -> None:
    model = Model().to(device)
    autocast_forward(model, precision, device)
    output = model(torch.ones(2, 4, device=device))
    assert autocast_dtype(precision) == model.computed_in == dtype
    assert output["logits"].dtype == output["nested"][0].logits.dtype == torch.float32
    assert isinstance(output["nested"][0], Pair)
    assert output["nested"][0].ids.dtype == torch.int64
    assert (make_scaler(precision, device) is not None) is precision.fp16
    output["logits"].sum().backward()
    assert model.linear.weight.grad is not None
    assert model.linear.weight.dtype == model.linear.weight.grad.dtype == torch.float32


def test_signature_survives(device: torch.device) -> None:
    import inspect

    model = Model().to(device)
    autocast_forward(model, Precision(bf16=True), device)
    assert list(inspect.signature(model.forward).parameters) == ["x", "labels"]


def test_mappings_keep_their_type() -> None:
    value = to_fp32(OrderedDict(a=torch.ones(1, dtype=torch.bfloat16), b=(torch.ones(1, dtype=torch.float64), "c")))
    assert type(value) is OrderedDict
    assert value["a"].dtype == torch.float32
    assert value["b"][0].dtype == torch.float64


def test_tf32_needs_ampere() -> None:
    with pytest.raises(ValueError, match=r"precision\.tf32=true needs an Ampere or later NVIDIA GPU, this is cpu"):
        set_tf32(Precision(tf32=True), CPU)
    before = torch.backends.fp32_precision
    set_tf32(Precision(), CPU)
    assert torch.backends.fp32_precision == before
