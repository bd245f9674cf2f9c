"""Context parallelism: each rank of a group computes a part of the tokens and gathers all keys and values for attention
(Llama 3, 2024, section 3.3.2; Megatron's cp_comm_type=all_gather).

torch.distributed.tensor.experimental.context_parallel, a prototype, cuts tensors that the caller names, in place, and
leaves outputs and loss those of a part; here the loop and the task see whole sequences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from ..schema.task import IGNORE_INDEX
from ..tree import map_tensors


class Context:
    """Inside ``active()``, forward and backward of ``model`` work on this rank's share of each sequence.

    Inputs are (B, T) or (B, T, ...), the same on all ranks of ``group``; rank r computes tokens r T/n to (r + 1) T/n.
    An output (B, T/n, ...) comes back as the whole (B, T, ...), its gradient as the sum over the ranks: the loss is the
    whole sequence's on every rank. A transformers model that makes its own loss returns its tokens' share of it, n
    times: the ranks' mean is the whole sequence's. In both cases the mean of the ranks' gradients is the gradient.
    Outside, each rank works on whole sequences by itself.

    Raises:
        ValueError: the model visibly mixes tokens otherwise than by torch's scaled_dot_product_attention.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup) -> None:
        if problems := list(_unfit(model)):
            raise ValueError(
                f"parallel.cp_size={group.size()}: {type(model).__name__} cannot be cut: {'; '.join(problems)}"
            )
        self._group, self._size, self._rank = group, group.size(), group.rank()
        self._inside = False
        self._length = 0
        """Tokens of this rank."""
        self._attended = self._made_loss = False
        """Whether this forward has attended, and computed a loss."""
        self._unpadded: Tensor | None = None
        self._targets: Tensor | None = None
        """This rank's labels (B, T/n), each at the position that predicts it."""
        self._items: Tensor | None = None
        """Number of labels in the whole batch, over n."""
        model.register_forward_pre_hook(self._cut, with_kwargs=True)
        model.register_forward_hook(self._join)
        function: Any = getattr(model, "loss_function", None)
        if function is not None:  # transformers: what forward calls with its logits and labels
            model.loss_function = partial(self._loss, function)  # type: ignore[assignment]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Around forward and backward; backward attends again where layers are recomputed."""
        self._inside = True
        try:
            with _attention_by(self._attend):
                yield
        finally:
            self._inside = False

    def _cut(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Cut the model's inputs to this rank's tokens."""
        if not self._inside:
            return None
        inputs = dict(kwargs)
        mask, positions = inputs.pop("attention_mask", None), inputs.pop("position_ids", None)
        tensors = [t for t in (*args, *inputs.values()) if isinstance(t, Tensor) and t.ndim]
        batch, length = self._check(model, tensors)
        self._length = length // self._size
        own = slice(self._rank * self._length, (self._rank + 1) * self._length)
        self._check_mask(mask, (batch, length))
        places = torch.arange(length, device=tensors[0].device)
        if positions is not None:
            torch._assert_async((positions == places).all(), "parallel.cp_size: position_ids that are not 0, 1, 2 ...")
        self._attended = self._made_loss = False
        self._targets = self._items = None
        labels = inputs.get("labels")
        if labels is not None:
            targets = inputs.pop("shift_labels", None)
            targets = F.pad(labels, (0, 1), value=IGNORE_INDEX)[:, 1:] if targets is None else targets
            self._targets = targets[:, own].contiguous()
            self._items = targets.ne(IGNORE_INDEX).sum().clamp(min=1) / self._size

        def share(value: Any) -> Any:
            return value[:, own].contiguous() if isinstance(value, Tensor) and value.ndim else value

        cut = {name: share(value) for name, value in inputs.items()}
        return tuple(map(share, args)), cut | {"position_ids": places[None, own]}

    def _check(self, model: nn.Module, tensors: list[Tensor]) -> tuple[int, int]:
        """Batch size and length of the sequences.

        Raises:
            ValueError: they cannot be cut.
        """
        shapes = {tuple(t.shape[:2]) for t in tensors}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
            found = ", ".join(str(tuple(t.shape)) for t in tensors)
            raise ValueError(
                f"parallel.cp_size={self._size}: {type(model).__name__} is given {found}; allowed: inputs (B, T, ...)"
            )
        batch, length = shape
        if length % self._size or length < 2 * self._size:  # a single token looks like a generation step
            raise ValueError(
                f"parallel.cp_size={self._size} does not cut sequences of {length} tokens into equal parts of two or "
                f"more; fix: pad or cut them to a multiple of {self._size} (data.train_dataset, data.collate_fn)"
            )
        return batch, length

    def _check_mask(self, mask: Tensor | None, shape: tuple[int, int]) -> None:
        """Check that attention needs no mask: if causal, padding is behind the tokens; else there is none."""
        self._unpadded = None
        if mask is None:
            return
        if mask.shape != shape:
            raise ValueError(f"parallel.cp_size={self._size}: an attention_mask {tuple(mask.shape)}; allowed: {shape}")
        behind = mask[:, 1:].le(mask[:, :-1]).all()
        torch._assert_async(behind, "parallel.cp_size: padding before a sequence's tokens; fix: pad behind them")
        self._unpadded = mask.bool().all()

    def _join(self, model: nn.Module, args: Any, output: Any) -> Any:
        """Gather the model's outputs over all ranks' tokens."""
        if not self._inside:
            return None
        if not self._attended:
            raise ValueError(
                f"parallel.cp_size={self._size}: {type(model).__name__} did not call torch.nn.functional."
                "scaled_dot_product_attention, so no token saw another rank's; fix: parallel.cp_size=1"
            )
        return output if self._made_loss else map_tensors(self._whole, output)

    def _whole(self, output: Tensor) -> Tensor:
        if output.ndim < 2 or output.shape[1] != self._length:
            raise ValueError(
                f"parallel.cp_size={self._size}: an output {tuple(output.shape)} of {self._length} tokens; allowed: "
                "(B, T, ...), or a loss by a transformers model's loss_function; fix: parallel.cp_size=1"
            )
        return gather(output, 1, self._group)

    def _loss(self, function: Callable[..., Tensor], logits: Tensor, labels: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Compute a transformers model's loss on this rank's tokens."""
        if not self._inside:
            return function(logits, labels, *args, **kwargs)
        if (name := getattr(function, "__name__", "")) != "ForCausalLMLoss":
            raise ValueError(f"parallel.cp_size={self._size}: the loss {name} is not a sum over tokens")
        self._made_loss = True
        return function(
            logits, labels, *args, **kwargs | {"shift_labels": self._targets, "num_items_in_batch": self._items}
        )

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attend from this rank's queries (..., T/n, E) to all keys, or to those up to their own position."""
        if attn_mask is not None:
            raise ValueError(
                f"parallel.cp_size={self._size}: attention with a mask {tuple(attn_mask.shape)} (a window, packed "
                "samples, biases of distance) cannot be cut; only causal and full attention"
            )
        self._attended = True
        key, value = gather(key, -2, self._group), gather(value, -2, self._group)
        if is_causal:
            end = (self._rank + 1) * query.shape[-2]
            key, value = key[..., :end, :], value[..., :end, :]
            attn_mask = causal_lower_right(query.shape[-2], end)  # flash kernels know it: no tensor on the GPU
        elif self._unpadded is not None:
            torch._assert_async(self._unpadded, "parallel.cp_size: padding, which attention to all tokens would see")
        with _attention_by(_TORCHS):  # it calls itself for some masks
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, scale=scale, enable_gqa=enable_gqa
            )


_TORCHS = F.scaled_dot_product_attention


@contextmanager
def _attention_by(function: Callable[..., Tensor]) -> Iterator[None]:
    """Replace scaled_dot_product_attention, as torch's own context_parallel does: a TorchFunctionMode would slow down
    every torch call, and is off in backward."""
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = function
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


def gather(piece: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Concatenate the ranks' pieces along ``dim``, with gradients (collective, in backward too)."""
    whole: Tensor = _Gather.apply(piece.movedim(dim, 0).contiguous(), group)  # type: ignore[no-untyped-call]
    return whole.movedim(0, dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, piece: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        whole = piece.new_empty(group.size() * piece.shape[0], *piece.shape[1:])
        dist.all_gather(list(whole.chunk(group.size())), piece, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (whole,) = gradients
        piece = whole.new_empty(whole.shape[0] // ctx.group.size(), *whole.shape[1:])
        dist.reduce_scatter(piece, list(whole.contiguous().chunk(ctx.group.size())), group=ctx.group)
        return piece, None


_MIXING = (nn.modules.conv._ConvNd, nn.RNNBase, nn.modules.batchnorm._NormBase, nn.GroupNorm)
"""Layers that mix tokens; Mamba's begin with a convolution."""


def _unfit(model: nn.Module) -> Iterator[str]:
    """Reasons why a model would take a part of a sequence for the whole."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        yield "its forward takes no position_ids (its tokens' positions in the sequence)"
    if mixing := {type(module).__name__ for module in model.modules() if isinstance(module, _MIXING)}:
        yield f"its {', '.join(sorted(mixing))} would mix tokens within a rank's part"
    config: Any = getattr(model, "config", None)  # a transformers model's
    attention = getattr(config, "_attn_implementation", None)
    if isinstance(attention, str) and attention != "sdpa":
        yield f"its attention is {attention}; fix: model.config.attn_implementation=sdpa"
    if layers := set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        yield f"it has layers of {', '.join(sorted(layers))}"
    elif getattr(config, "sliding_window", None):
        yield f"sliding_window={config.sliding_window}; fix: model.config.sliding_window=null"
    if getattr(config, "output_router_logits", False):
        yield "its loss has a term over all tokens; fix: model.config.output_router_logits=false"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        yield f"its {rope['rope_type']} positions depend on the sequence's length"
