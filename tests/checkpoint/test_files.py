"""What goes in comes out, or is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoint import files


def test_floats_come_back_to_the_bit() -> None:
    values = [
        0.1 + 0.2,
        5e-324,
        -0.0,
        1e308,
        math.inf,
        -math.inf,
        2**70,
        1 / 3,
        *torch.rand(100, dtype=torch.float64).tolist(),
    ]
    back = json.loads(files.dumps(values))
    assert [math.copysign(1, v) for v in back] == [math.copysign(1, v) for v in values]
    assert back == values
    assert math.isnan(json.loads(files.dumps({"a": math.nan}))["a"])


def test_equal_values_are_equal_texts() -> None:
    assert files.dumps({"b": [1, 2.0], "a": None}) == files.dumps({"a": None, "b": (1, 2.0)})


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"a": {"b": [1, {2}]}}, r"state\.a\.b\[1\]: JSON cannot represent a builtins.set"),
        ({"a": {1: 2}}, r"state\.a: the key 1 is not a string"),
        ({"callbacks": {"x": Path("p")}}, r"state\.callbacks\.x: JSON cannot represent a pathlib"),
        ({"lr": torch.tensor(1.0)}, r"state\.lr: JSON cannot represent a torch.Tensor"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_name(value: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        files.dumps(value, "state")
