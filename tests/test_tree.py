"""The tree map: every container is rebuilt in its own type, at any depth, and none is changed in place."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from trainer.tree import map_leaves, map_tensors, tensors

Pair = namedtuple("Pair", "x y")


class Record(dict[str, Any]):
    def __init__(self, source: str, **fields: Any) -> None:
        super().__init__(**fields)
        self.source = source


class Frozen(Mapping[str, Any]):
    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.held = dict(fields)

    def __getitem__(self, key: str) -> Any:
        return self.held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


class Words(list[Any]):
    pass


@dataclass(frozen=True, slots=True)
class Sample:
    x: Any
    name: str = "sample"


@dataclass
class Derived:
    x: Any
    scale: InitVar[float]
    y: Any = field(init=False)

    def __post_init__(self, scale: float) -> None:
        self.y = self.x * scale


X, Y = torch.tensor([1.0, 2.0]), torch.tensor([3.0])

CONTAINERS: dict[str, Callable[[Any, Any], Any]] = {
    "dict": lambda x, y: {"x": x, "y": y, "text": "as it is", "none": None},
    "ordered": lambda x, y: OrderedDict(x=x, y=y),
    "default": lambda x, y: defaultdict(list, x=x, y=y),
    "record": lambda x, y: Record("disk", x=x, y=y),
    "user_dict": lambda x, y: UserDict({"x": x, "y": y}),
    "mapping": lambda x, y: Frozen({"x": x, "y": y}),
    "proxy": lambda x, y: MappingProxyType({"x": x, "y": y}),
    "list": lambda x, y: [x, 7, y],
    "words": lambda x, y: Words([x, y]),
    "deque": lambda x, y: deque([x, y]),
    "tuple": lambda x, y: (x, y, 1.5),
    "named": lambda x, y: Pair(x, y),
    "frozen_dataclass": lambda x, y: Sample([x, y]),
    "derived_dataclass": lambda x, y: derived(x, y),
}


def derived(x: Any, y: Any) -> Derived:
    """Holds what its constructor would not give it."""
    sample = Derived(0.0, 3.0)
    sample.x, sample.y = x, y
    return sample


def parts(value: Any) -> list[Tensor]:
    """The tensors, found by hand."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple | deque):
        return [tensor for part in value for tensor in parts(part)]
    names = getattr(value, "__dataclass_fields__", ())
    return [tensor for name in names if hasattr(value, name) for tensor in parts(getattr(value, name))]


@pytest.mark.parametrize("outer", CONTAINERS)
@pytest.mark.parametrize("inner", CONTAINERS)
def test_every_container_in_every_container(outer: str, inner: str) -> None:
    value = CONTAINERS[outer](CONTAINERS[inner](X, Y), Y)
    found = list(tensors(value))
    assert [id(t) for t in found] == [id(X), id(Y), id(Y)]
    other = map_tensors(lambda t: t.to("meta"), value)
    assert [t.device.type for t in parts(other)] == ["meta"] * 3
    assert type(other) is type(value)
    assert [id(t) for t in parts(value)] == [id(t) for t in found], "changed in place"


def test_everything_else_stays() -> None:
    other = map_tensors(torch.neg, {"text": "words", "none": None, "type": Sample, "x": X})
    assert (other["text"], other["none"], other["type"]) == ("words", None, Sample)
    assert other["x"].tolist() == [-1.0, -2.0]


def test_attributes_stay() -> None:
    assert map_tensors(torch.neg, Record("disk", x=X)).source == "disk"
    assert map_tensors(torch.neg, defaultdict(list, x=X))["new"] == []
    assert map_tensors(torch.neg, Sample(X, "seven")).name == "seven"


def test_leaves() -> None:
    assert map_leaves(str, {"a": 1, "b": (2, UserDict(c=3))}) == {"a": "1", "b": ("2", {"c": "3"})}
    assert map_leaves(len, [(1, 2), (3,)], is_leaf=lambda v: isinstance(v, tuple)) == [2, 1]


def test_packed_sequences() -> None:
    packed = map_tensors(torch.neg, pack_sequence([X, Y]))
    assert packed.data.tolist() == [-1.0, -3.0, -2.0]


def test_transformers_containers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_outputs import CausalLMOutput

    encoding = transformers.BatchEncoding({"input_ids": X, "spans": [Y]}, n_sequences=1)
    other = map_tensors(torch.neg, encoding)
    assert type(other) is transformers.BatchEncoding
    assert (other["input_ids"].tolist(), other["spans"][0].tolist()) == ([-1.0, -2.0], [-3.0])
    assert other.n_sequences == 1
    assert encoding["input_ids"] is X
    output = map_tensors(torch.neg, CausalLMOutput(loss=Y, logits=X, hidden_states=(X, Y)))
    assert type(output) is CausalLMOutput
    assert (output.loss.item(), output.logits.tolist()) == (-3.0, [-1.0, -2.0])
    assert output.hidden_states[1].tolist() == [-3.0]
    assert [id(t) for t in tensors(CausalLMOutput(loss=Y, hidden_states=(X,)))] == [id(Y), id(X)]
