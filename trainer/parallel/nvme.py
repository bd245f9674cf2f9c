"""What DeepSpeed keeps on disk (ZeRO-Infinity, Rajbhandari et al. 2021): its folder, its buffers, and how a checkpoint
reads and writes it.

A swapped-out tensor is empty; its elements are in its file. Optimizer states are swapped by sub groups, parameters one
by one; partitions below 1 MiB stay in memory (DeepSpeed's MIN_AIO_BYTES).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import distributed
from .engine import MakeOptimizer

SUB_GROUP_SIZE = 100_000_000
"""Elements of a sub group: DeepSpeed's own 1e9 would pin 16 GB of a rank's host memory for Adam."""
_PREFIX = "trainer-swap-"


class SwapFolder:
    """A new directory for this process's swap files, locked while the process lives: DeepSpeed's own names would be the
    same in every run. Removes what killed runs have left in ``parent``.

    Raises:
        ValueError: ``parent`` cannot hold swap files.
    """

    def __init__(self, parent: Path) -> None:
        try:
            guard = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _unusable(parent, error) from None
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)  # no other process removes a new folder before it is locked
            for old in parent.glob(f"{_PREFIX}*"):
                _remove_unless_locked(old)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise _unusable(parent, error) from None
        finally:
            os.close(guard)
        try:
            os.close(os.open(self.path / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT))
        except OSError as error:
            self.close()
            raise _unusable(parent, error) from None

    def close(self) -> None:
        """Remove the directory and its content."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _unusable(parent: Path, error: OSError) -> ValueError:
    what = "its file system has no O_DIRECT" if error.errno == errno.EINVAL else error.strerror
    return ValueError(
        f"parallel.nvme_path={parent}: {what}; fix: a directory on a local disk that exists on every machine"
    )


def _remove_unless_locked(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # it belongs to another user
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:  # in use by a live run
        pass
    finally:
        os.close(lock)


def prepare(zero: dict[str, Any], model: nn.Module, make_optimizer: MakeOptimizer) -> list[SwapFolder]:
    """Complete a zero_optimization section that offloads to nvme, in place; others are left alone. Returns this
    process's swap folders; the section's buffers become as many and as large as the model needs.

    Raises:
        ValueError: libaio is missing, the folder cannot be made, or the optimizer's states cannot be swapped.
    """
    folders: dict[Path, SwapFolder] = {}
    with ExitStack() as undo:
        for name in ("offload_optimizer", "offload_param"):
            section = zero.get(name) or {}
            if section.get("device") != "nvme":
                continue
            load_async_io()
            if name == "offload_optimizer":
                zero.setdefault("sub_group_size", SUB_GROUP_SIZE)
                # Pipelined, the sub groups before and after are on their way at the same time.
                groups = 1 + bool(section.get("pipeline_read")) + bool(section.get("pipeline_write"))
                least = {"buffer_count": groups * _optimizer_buffers(make_optimizer)}
            else:
                # a parameter that waits for its next use would keep its buffer
                zero.setdefault("stage3_max_reuse_distance", 0)
                section = {"max_in_cpu": 0} | section
                least = _parameter_buffers(model)
            parent = Path(section["nvme_path"]).expanduser()
            if parent not in folders:
                folders[parent] = SwapFolder(parent)
                undo.callback(folders[parent].close)
            enough = {key: max(number, section.get(key, 0)) for key, number in least.items()}
            zero[name] = section | enough | {"nvme_path": str(folders[parent].path)}
        undo.pop_all()
    return list(folders.values())


def load_async_io() -> None:
    """Load DeepSpeed's asynchronous reads and writes; the first call on a machine compiles them, for minutes."""
    from deepspeed.ops.op_builder import AsyncIOBuilder
    from torch.utils.cpp_extension import _get_build_directory

    if not AsyncIOBuilder().is_compatible():
        raise ValueError(
            "parallel: offloading to nvme needs a C++ compiler and libaio's headers; "
            "fix: apt-get install g++ libaio-dev (dnf: gcc-c++ libaio-devel)"
        )
    directories = [Path(_get_build_directory(name, False)) for name in ("async_io", "pin_memory")]
    path = os.environ["PATH"]
    with (directories[0] / "trainer-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for directory in directories:  # torch would wait forever for a build that was killed
            (directory / "lock").unlink(missing_ok=True)
        # Always the same ninja: another version would compile everything again.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
        try:
            AsyncIOBuilder().load(verbose=False)
        finally:
            os.environ["PATH"] = path


def _optimizer_buffers(make_optimizer: MakeOptimizer) -> int:
    """Tensors of a sub group that are in memory at once: weights, gradients and the optimizer's states, which one step
    on a small layer counts."""
    layer = nn.Linear(64, 64, device="meta").to_empty(device="cpu")  # draws no random numbers
    optimizer = make_optimizer(layer)
    for parameter in layer.parameters():
        parameter.data.zero_()
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [value for value in optimizer.state[layer.weight].values() if isinstance(value, Tensor) and value.ndim]
    # Adagrad makes its states in its constructor, which DeepSpeed calls while the weights are on disk.
    if isinstance(optimizer, torch.optim.Adagrad) or any(
        type(state) is not Tensor or state.dtype is not torch.float32 or state.shape != layer.weight.shape
        for state in states
    ):
        raise ValueError(
            f"parallel.offload_optimizer=nvme: DeepSpeed cannot swap the states of {type(optimizer).__name__}; "
            "fix: parallel.offload_optimizer=cpu"
        )
    return 2 + len(states)


def _parameter_buffers(model: nn.Module) -> dict[str, int]:
    """Buffers for parameters between disk and use: twice as many as the modules around one computation own (the next
    ones are read meanwhile), each of the largest partition's size in elements."""
    largest = max(parameter.numel() for parameter in model.parameters())
    return {"buffer_count": 2 * _deepest(model), "buffer_size": -(-largest // distributed.world_size())}


def _deepest(module: nn.Module) -> int:
    own = sum(1 for _ in module.parameters(recurse=False))
    return own + max(map(_deepest, module.children()), default=0)


def align_gradients(zero: Any) -> None:
    """Write gradients to disk in pieces that begin and end at aligned elements of their sub group, where they are read
    back to: O_DIRECT reads to no other address, and DeepSpeed (0.19.8) does not check that it did."""
    if zero.swap_optimizer:
        swapper = zero.optimizer_swapper
        swapper._adjust_for_misaligned_lengths = partial(_aligned_pieces, swapper.numel_alignment)


def _aligned_pieces(alignment: int, tensors: list[Tensor], offsets: list[int]) -> tuple[list[Tensor], list[int]]:
    pieces, starts = [], []
    for tensor, offset in zip(tensors, offsets, strict=True):
        head = min(-offset % alignment, tensor.numel())
        tail = (tensor.numel() - head) % alignment
        for piece in torch.split(tensor, [head, tensor.numel() - head - tail, tail]):
            if piece.numel():
                pieces.append(piece)
                starts.append(offset)
                offset += piece.numel()
    return pieces, starts


def on_disk(zero: Any, model: nn.Module) -> dict[int, Tensor]:
    """What is swapped out, by the id of the tensor that it belongs to: memory maps of the files, valid until the next
    step and read when they are used."""
    found: dict[int, Tensor] = {}
    if zero.swap_optimizer:
        for info in zero.optimizer_swapper.swap_params_info.values():
            for context in info.tensors:
                found[id(context.compute_tensor)] = _map(context.swap_path, info.numel())
    for parameter in model.parameters():
        if not parameter.requires_grad and _is_out(parameter):  # trained ones have their fp32 copy
            tensor: Any = parameter.ds_tensor  # type: ignore[attr-defined]
            path = parameter.nvme_swapper.get_path(parameter, True)  # type: ignore[attr-defined]
            found[id(tensor)] = _map(path, tensor.ds_numel)
    return found


def _map(path: str, numel: int) -> Tensor:
    return torch.from_file(path, shared=False, size=numel, dtype=torch.float32)


def _is_out(parameter: Any) -> bool:
    return bool(parameter.ds_tensor.status.name == "NOT_AVAILABLE")


@contextmanager
def writable(zero: Any, owner: int | nn.Parameter) -> Iterator[None]:
    """Inside, a sub group's fp32 partition and optimizer states, or a frozen parameter's partition, are in memory to be
    written to. Afterwards they are on disk again if that is their place, and what forward reads is up to date."""
    if isinstance(owner, int):
        swaps = zero._swappable_optimizer_subgroup(owner)
        if swaps:
            zero._optimizer_states_and_gradient_swap_in(owner)
        yield
        zero._reassign_or_swap_out_partitioned_parameters(owner)
        if swaps:
            zero._optimizer_states_and_gradient_swap_out(owner)
    elif _is_out(owner):
        swapper: Any = owner.nvme_swapper  # type: ignore[attr-defined]
        swapper.swap_in([owner], async_op=False)
        yield
        swapper.swap_out_and_release([owner])
    else:
        yield


def before_update(zero: Any, model: nn.Module) -> None:
    """Correct what DeepSpeed (0.19.8) does to a parameter that forward has left out: it would update a copy that was
    read ahead instead of the file, with the gradient of an earlier update or with none."""
    release_prefetched(model)
    for group, parameters in enumerate(zero.fp16_groups if zero.swap_optimizer else ()):
        left_out = [p for p in parameters if zero.get_param_id(p) not in zero.norm_for_param_grads]
        if left_out and zero._swappable_optimizer_subgroup(group):
            flat = zero.fp32_partitioned_groups_flat[group]
            zero.optimizer_swapper.swap_out_gradients(
                parameter=flat,
                gradient_offsets=[zero.grad_position[zero.get_param_id(p)][1] for p in left_out],
                gradient_tensors=[torch.zeros(p.partition_numel(), dtype=flat.dtype) for p in left_out],
            )


def release_prefetched(model: nn.Module) -> None:
    """Release the buffers of what was read ahead and not used."""
    for parameter in model.parameters():
        swapper: Any = getattr(parameter, "nvme_swapper", None)
        if swapper is not None:
            swapper.synchronize_reads()
            if parameter.ds_id in swapper.param_id_to_buffer_id:  # type: ignore[attr-defined]
                swapper.remove_partition_and_release_buffers([parameter])
