"""Batches to the device. On the meta device a tensor that was left behind shows."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from trainer.data.device import to_device

META = torch.device("meta")
Pair = namedtuple("Pair", "ids mask")


class Graph:
    """A user's batch class."""

    def __init__(self, nodes: Tensor) -> None:
        self.nodes = nodes

    def to(self, device: torch.device) -> Graph:
        return Graph(self.nodes.to(device))


@dataclass
class Sample:
    ids: Tensor
    extra: Any = None


def ids() -> Tensor:
    return torch.arange(3)


def batch_encoding() -> Any:
    return pytest.importorskip("transformers").BatchEncoding({"ids": ids(), "spans": [ids()]})


def model_output() -> Any:
    pytest.importorskip("transformers")
    from transformers.modeling_outputs import CausalLMOutput

    return CausalLMOutput(loss=torch.ones(()), hidden_states=(torch.ones(2),))


BATCHES = {
    "tensor": ids,
    "dict": lambda: {"ids": ids(), "text": "words"},
    "user_dict": lambda: UserDict(ids=ids(), more={"mask": ids()}),
    "batch_encoding": batch_encoding,
    "named_tuple": lambda: Pair(ids(), [ids()]),
    "tuple": lambda: (ids(), (ids(), 3)),
    "list": lambda: [ids(), {"mask": ids()}],
    "dataclass": lambda: Sample(ids(), [Sample(ids())]),
    "model_output": model_output,
    "own_class": lambda: Graph(ids()),
    "own_class_inside": lambda: {
        "graph": Graph(ids()),
        "pair": Pair(Sample(Graph(ids())), UserDict(graph=Graph(ids()))),
    },
}


def devices(value: Any) -> set[str]:
    """Where the tensors are, found by hand."""
    if isinstance(value, Tensor):
        return {value.device.type}
    if isinstance(value, Mapping):
        return set().union(*map(devices, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(devices, value))
    return set().union(*map(devices, vars(value).values())) if hasattr(value, "__dict__") else set()


@pytest.mark.parametrize("name", BATCHES)
def test_nothing_is_left_behind(name: str) -> None:
    batch = BATCHES[name]()
    moved = to_device(batch, META)
    assert devices(moved) == {"meta"}
    assert type(moved) is type(batch)
    assert devices(batch) == {"cpu"}, "the dataset's own batch was moved"


@pytest.mark.parametrize("name", BATCHES)
def test_on_a_cpu_a_batch_is_itself(name: str) -> None:
    batch = BATCHES[name]()
    assert to_device(batch, torch.device("cpu")) is batch


def test_a_packed_sequence_keeps_its_lengths_on_the_cpu() -> None:
    moved = to_device({"x": pack_sequence([torch.ones(2), torch.ones(1)])}, META)["x"]
    assert isinstance(moved, PackedSequence)
    assert (moved.data.device.type, moved.batch_sizes.device.type) == ("meta", "cpu")


def test_everything_else_stays() -> None:
    words = {"text": ["a", "b"], "count": 2, "type": Sample}
    assert to_device(words, META) == words
