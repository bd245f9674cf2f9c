"""Tensor parallelism: a layer's weights cut over the ranks of a tensor-parallel group, by a plan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module


class _SharedByHeads(ParallelStyle):
    """A norm that all heads share (Qwen3's q_norm), whole on every rank: its gradient is the sum over the ranks'
    heads."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def enter(_: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
            heads = inputs[0].ndim - 2
            return DTensor.from_local(inputs[0], mesh, [Shard(heads)], run_check=False), *inputs[1:]

        def leave(_: nn.Module, output: Any, __: DeviceMesh) -> Any:
            return output.to_local()

        return distribute_module(module, device_mesh, None, enter, leave)


def style(word: str) -> ParallelStyle | None:
    """torch's style for a plan's word (transformers' words and Megatron's meaning), None for an unknown one."""
    if word == "colwise":
        return ColwiseParallel()
    if word in ("colwise_rep", "colwise_gather_output"):
        return ColwiseParallel(output_layouts=Replicate())
    if word == "rowwise":
        return RowwiseParallel()
    if word in ("rowwise_rep", "rowwise_split_input", "embedding_rowwise"):
        return RowwiseParallel(input_layouts=Replicate())
    return _SharedByHeads() if word == "replicated_with_grad_allreduce" else None


def plan_of(model: nn.Module, plan: dict[str, str] | None) -> dict[str, str]:
    """Module name -> style, by the config's plan, whose every pattern must match, else by the model's own.

    Raises:
        ValueError: there is no plan, a pattern matches no module, or a style is unknown.
    """
    patterns = plan or getattr(model, "tp_plan", None) or getattr(model, "_tp_plan", None)
    if not patterns:
        raise ValueError(
            f"parallel.tp_size: {type(model).__name__} has no tp_plan; fix: parallel.tp_plan={{blocks.*.up:colwise,"
            "blocks.*.down:rowwise} with its own module names"
        )
    names = [name for name, _ in model.named_modules()]
    found: dict[str, str] = {}
    problems = []
    for pattern, word in patterns.items():
        matches = [name for name in names if re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.]+"), name)]
        if style(word) is None:
            problems.append(f"{pattern}: there is no style {word}")
        elif not matches and plan:
            problems.append(f"{pattern}: no module has this name")
        found |= dict.fromkeys(matches, word)
    if problems or not found:
        raise ValueError(f"parallel.tp_plan: {'; '.join(problems) or f'matches nothing of {names[1:9]}'}")
    return found


def parallelise(model: nn.Module, mesh: DeviceMesh, plan: dict[str, str] | None) -> None:
    """Cut the model's layers over ``mesh``, in place; parameters keep their names, tied ones stay tied."""
    chosen = plan_of(model, plan)
    _check_sizes(model, chosen, mesh.size())
    with preserve_ties(model):
        parallelize_module(model, mesh, {name: style(word) for name, word in chosen.items()})  # type: ignore[misc]


def _check_sizes(model: nn.Module, plan: dict[str, str], size: int) -> None:
    """Raise ValueError unless ``size`` divides what is cut: torch takes all ranks' pieces to be of the same size."""
    problems = []
    config: Any = getattr(model, "config", None)
    for key in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, key, None)
        if isinstance(heads, int) and heads % size:
            problems.append(f"model.config.{key}={heads}")
    for name, word in plan.items():
        module = model.get_submodule(name)
        if word == "replicated_with_grad_allreduce":
            continue
        if not isinstance(module, nn.Linear | nn.Embedding):
            raise ValueError(
                f"parallel.tp_plan: {name} is a {type(module).__name__}; only Linear and Embedding are cut"
            )
        axis = 0 if word.startswith("colwise") or isinstance(module, nn.Embedding) else 1
        if module.weight.shape[axis] % size:
            problems.append(f"{name}'s weight {tuple(module.weight.shape)}")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"parallel.tp_size={size} does not divide {'; '.join(problems[:4])}{more}")


@contextmanager
def preserve_ties(model: nn.Module) -> Iterator[None]:
    """Modules that share a parameter share one again afterwards, although the block gives them new ones."""
    owners: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(parameter, []).append((module, name))
    yield
    for sharing in owners.values():
        shared = getattr(*sharing[0])
        for module, name in sharing[1:]:
            if getattr(getattr(module, name), "placements", None) != getattr(shared, "placements", None):
                raise ValueError("parallel.tp_plan: modules that share a weight must be cut alike")
            setattr(module, name, shared)
