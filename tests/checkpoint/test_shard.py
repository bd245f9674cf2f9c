"""Any division of tensors over files comes back as the same tensors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainer.checkpoint import files, shard
from trainer.checkpoint.shard import Shard, ShardReader
from trainer.errors import CheckpointError

DTYPES = list(shard._NAMES)


def whole(name: str, tensor: Tensor) -> Shard:
    return Shard(name, tuple(tensor.shape), 0, tensor.reshape(-1))


def pieces(name: str, tensor: Tensor, parts: int) -> list[Shard]:
    """As ZeRO cuts: equal runs of the flattened tensor, the last one short or empty."""
    flat, size = tensor.reshape(-1), math.ceil(tensor.numel() / parts)
    return [
        Shard(name, tuple(tensor.shape), min(i * size, flat.numel()), flat[i * size :][:size]) for i in range(parts)
    ]


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], list[int]]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).tolist()


def random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random bytes, so that nan and negative zero are among them."""
    width = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (math.prod(shape) * width,), dtype=torch.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (7,), (97, 5), (3, 4, 5)], ids=str)
def test_every_type_and_shape_comes_back_to_the_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = random(shape, dtype)
    shard.write(tmp_path / shard.file_name(0), [whole("model/a", tensor)])
    reader = ShardReader(tmp_path)
    assert reader.names() == ["model/a"]
    assert reader.shape("model/a") == shape
    assert reader.dtype("model/a") == dtype
    assert bits(reader.read_whole("model/a")) == bits(tensor)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_pieces_of_many_ranks_make_one_tensor(tmp_path: Path, ranks: int) -> None:
    tensors = {
        "model/w": random((97, 3), torch.float32),
        "model/b": random((5,), torch.bfloat16),
        "optim/step/w": torch.tensor(3.0),
    }
    for rank in range(ranks):
        mine = [pieces(name, tensor, ranks)[rank] for name, tensor in tensors.items()]
        shard.write(tmp_path / shard.file_name(rank), mine)
    reader = ShardReader(tmp_path)
    assert reader.names() == sorted(tensors)
    for name, tensor in tensors.items():
        assert bits(reader.read_whole(name)) == bits(tensor)


def test_any_range_is_read(tmp_path: Path) -> None:
    tensor = torch.arange(30, dtype=torch.int16).reshape(5, 6)
    for rank, piece in enumerate(pieces("a", tensor, 4)):
        shard.write(tmp_path / shard.file_name(rank), [piece])
    reader = ShardReader(tmp_path)
    for start in range(31):
        for length in range(31 - start):
            assert reader.read("a", start, length).tolist() == list(range(start, start + length))
    assert reader.read("a", 28).tolist() == [28, 29]
    with pytest.raises(IndexError, match="a: cannot read elements 28 to 31 of 30"):
        reader.read("a", 28, 3)


def test_overlapping_and_repeated_pieces_are_fine(tmp_path: Path) -> None:
    tensor = torch.arange(10.0)
    cuts = [[(0, 10)], [(0, 4), (2, 7)], [(6, 10), (0, 1)]]
    for rank, ranges in enumerate(cuts[1:]):
        shard.write(tmp_path / shard.file_name(rank), [Shard("a", (10,), a, tensor[a:b]) for a, b in ranges])
    assert ShardReader(tmp_path).read_whole("a").tolist() == tensor.tolist()
    shard.write(tmp_path / shard.file_name(9), [whole("a", tensor)])
    assert ShardReader(tmp_path).read("a", 3, 5).tolist() == tensor[3:8].tolist()


def test_a_gap_names_the_tensor_and_the_range(tmp_path: Path) -> None:
    for rank, piece in enumerate(pieces("optim/exp_avg/w", torch.arange(12.0), 4)):
        if rank != 2:
            shard.write(tmp_path / shard.file_name(rank), [piece])
    reader = ShardReader(tmp_path)
    assert reader.read("optim/exp_avg/w", 0, 6).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(CheckpointError, match="optim/exp_avg/w: elements 6 to 9 of 12 are not in any of its files"):
        reader.read_whole("optim/exp_avg/w")
    with pytest.raises(CheckpointError, match="has no tensor model/x"):
        reader.read("model/x")


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    shard.write(tmp_path / shard.file_name(0), [whole("a", torch.zeros(4))])
    reader = ShardReader(tmp_path)
    reader.read("a").add_(1)
    assert reader.read("a").tolist() == [0, 0, 0, 0]


def test_live_memory_and_gradients_do_not_matter(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    shard.write(tmp_path / shard.file_name(0), [whole("a", weight), whole("b", weight.detach().t())])
    reader = ShardReader(tmp_path)
    assert reader.read_whole("a").tolist() == weight.tolist()
    assert reader.read_whole("b").tolist() == weight.t().tolist()


def test_whole_tensors_are_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "half": random((3,), torch.float16),
        "a": random((2, 3), torch.float64),
        "n": torch.tensor(7),
        "e": torch.zeros(0),
    }
    shard.write(tmp_path / shard.file_name(0), [whole(name, tensor) for name, tensor in tensors.items()])
    assert {n: bits(t) for n, t in load_file(tmp_path / shard.file_name(0)).items()} == {
        n: bits(t) for n, t in tensors.items()
    }


def test_what_was_recorded_is_what_is_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / shard.file_name(0)
    written = shard.write(path, [whole("a", torch.randn(1000))])
    assert written.size == path.stat().st_size
    assert files.read(path) == written


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([Shard("a", (4,), 2, torch.zeros(3))], "a: a piece of 3 elements from 2 does not fit in shape"),
        ([Shard("a", (4,), -1, torch.zeros(2))], "a: a piece of 2 elements from -1"),
        ([whole("a", torch.zeros(2)), whole("a", torch.zeros(2))], "a: this rank has two shards"),
        ([whole("a", torch.zeros(2, dtype=torch.complex128))], "a: safetensors cannot store torch.complex128"),
    ],
)
def test_bad_shards_are_refused_by_name(tmp_path: Path, bad: list[Shard], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        shard.write(tmp_path / shard.file_name(0), bad)


def test_files_that_disagree_or_are_not_ours_are_refused(tmp_path: Path) -> None:
    shard.write(tmp_path / shard.file_name(0), [Shard("a", (4,), 0, torch.zeros(2))])
    shard.write(tmp_path / shard.file_name(1), [Shard("a", (5,), 2, torch.zeros(2))])
    with pytest.raises(CheckpointError, match=r"rank-00001.*a is torch.float32 \(5,\) here"):
        ShardReader(tmp_path)
    (tmp_path / shard.file_name(1)).write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match=r"rank-00001.safetensors: is not a safetensors file of a checkpoint"):
        ShardReader(tmp_path)


def test_reading_costs_no_memory_for_the_rest(tmp_path: Path) -> None:
    """64 small reads out of a 64 MB tensor copy 64 small ranges, not 64 times the tensor."""
    shard.write(tmp_path / shard.file_name(0), [whole("a", torch.zeros(16 << 20))])
    reader = ShardReader(tmp_path)
    piece = reader.read("a", 1 << 20, 10)
    assert piece.untyped_storage().nbytes() == 40
