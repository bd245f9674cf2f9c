"""The base of every task: the loss of a batch, and what evaluation measures."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..schema.task import IGNORE_INDEX, TARGET_KEYS

if TYPE_CHECKING:
    from torchmetrics import Metric


@dataclass(slots=True)
class Output:
    """The result of evaluating or predicting one batch."""

    loss: Tensor | None
    """None only from `predict`."""
    predictions: Tensor | None = None
    targets: Tensor | None = None


class Task(ABC):
    """What a model is trained for. A task of your own needs only `loss`; the other methods have defaults."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss over the micro-batch's items, a scalar."""

    def evaluate(self, model: nn.Module, batch: Any) -> Output:
        """The loss, and the predictions and targets for the metrics. Called without gradients."""
        return Output(self.loss(model, batch))

    def predict(self, model: nn.Module, batch: Any) -> Output:
        """The same for a batch that may have no target; the result then has neither loss nor targets."""
        return self.evaluate(model, batch)

    def metrics(self) -> dict[str, Metric]:
        """New torchmetrics by name; each is updated with (predictions, targets) of every batch and logged as
        `eval_<name>`."""
        return {}

    def summarise(self, metrics: dict[str, float]) -> dict[str, float]:
        """More metrics derived from an evaluation's. Names have no `eval_` prefix, in the argument and the result."""
        return {}

    def num_items(self, batch: Any) -> int | Tensor | None:
        """The number of items that `loss` averages over, by which micro-batches are weighted. None: the samples."""
        return None


class Supervised(Task):
    """A task that compares a model's output with a target.

    The loss is the model's own if it returns one, unless labels are smoothed, which the model cannot do: then it does
    not get the labels.
    """

    label_names: Sequence[str] | None = None
    """data.label_names."""
    label_smoothing: float = 0.0
    """train.label_smoothing_factor, for criteria that support it."""
    shifts_labels: bool = False
    """Whether the output at position t is compared with the label at t + 1."""
    ignore_index: int = IGNORE_INDEX
    """The label that the loss leaves out."""

    def prepare(self, model: nn.Module) -> None:
        """Learn which labels the model's own loss averages over. Called once, before training, with the model as it
        was built."""
        shifts = own_loss_shifts(model)
        if shifts is not None:
            self.shifts_labels = shifts
        if getattr(model, "loss_type", None) == "ForSemanticSegmentation":
            self.ignore_index = getattr(model.config, "semantic_loss_ignore_index", IGNORE_INDEX)

    def num_items(self, batch: Any) -> int | Tensor | None:
        if isinstance(batch, Mapping) and "shift_labels" in batch:  # transformers' padding-free collators
            return num_labels(batch["shift_labels"], self.ignore_index)
        target = target_of(batch, self.label_names)
        if not isinstance(target, Tensor):
            return None
        return num_labels(target[..., 1:] if self.shifts_labels else target, self.ignore_index)

    @abstractmethod
    def criterion(self, output: Any, target: Tensor) -> Tensor:
        """The mean loss over the items."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        loss = self.evaluate(model, batch).loss
        assert loss is not None
        return loss

    def evaluate(self, model: nn.Module, batch: Any) -> Output:
        output = self.predict(model, batch)
        if output.loss is None:
            if not isinstance(batch, Mapping):
                raise TypeError(f"a batch must be a dict or an (input, target) pair, not {type(batch).__name__}")
            raise ValueError(
                f"no loss: {type(model).__name__} returned none, and the batch ({', '.join(batch)}) has no target; "
                f"name it one of {', '.join(self.target_names)}, or set data.label_names"
            )
        return output

    def predict(self, model: nn.Module, batch: Any) -> Output:
        target = target_of(batch, self.label_names)
        output = call(model, batch, without=self.target_names if self.label_smoothing else ())
        loss, predictions = (None, output) if isinstance(output, Tensor) else unpack(output)
        if loss is None and target is not None:
            loss = self.criterion(predictions, target)
        return Output(loss, predictions, target)

    @property
    def target_names(self) -> Sequence[str]:
        """Keys of a dict batch that may hold the targets."""
        return TARGET_KEYS if self.label_names is None else self.label_names

    def columns(self, model: nn.Module) -> frozenset[str] | None:
        """The keys of a dict item that this task and the model use; None if they may use any."""
        own = type(self)
        if any(getattr(own, name) is not getattr(Supervised, name) for name in ("loss", "evaluate", "predict")):
            return None
        parameters = inspect.signature(model.forward).parameters.values()
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        # a transformers model's **kwargs do not take columns of the data
        if takes_any and not hasattr(model, "main_input_name"):
            return None
        return frozenset(p.name for p in parameters) | frozenset(self.target_names)


def call(model: nn.Module, batch: Any, *, without: Sequence[str] = ()) -> Any:
    """The model's output: `model(**batch)` with the keys that forward accepts, but not those in ``without``, or
    `model(input)` for an (input, target) pair or an input alone."""
    if isinstance(batch, Mapping):
        accepted = accepted_keys(model)
        inputs = batch if accepted is None else {key: value for key, value in batch.items() if key in accepted}
        if without:
            inputs = {key: value for key, value in inputs.items() if key not in without}
        if not inputs:
            raise TypeError(
                f"{type(model).__name__}.forward takes {', '.join(sorted(accepted or ()))}; "
                f"the batch has none of these, only {', '.join(map(str, batch))}"
            )
        return model(**inputs)
    if isinstance(batch, (tuple, list)) and len(batch) in (1, 2):
        return model(batch[0])
    if isinstance(batch, Tensor):
        return model(batch)
    raise TypeError(f"a batch must be a dict or an (input, target) pair, not {type(batch).__name__}")


def target_of(batch: Any, names: Sequence[str] | None = None) -> Any:
    """The batch's target: its first key of TARGET_KEYS, or the values under ``names`` (a tuple if there are several).
    None if it has none."""
    if not isinstance(batch, Mapping):
        return batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    if names is None:
        return next((batch[key] for key in TARGET_KEYS if key in batch), None)
    if any(name not in batch for name in names):
        return None
    return batch[names[0]] if len(names) == 1 else tuple(batch[name] for name in names)


def num_labels(target: Tensor, ignore_index: int = IGNORE_INDEX) -> int | Tensor:
    """How many elements of a target a mean loss averages over: all, or the class indices that are not ``ignore_index``.

    These are counted on their device, without a synchronisation.
    """
    if target.is_floating_point() or target.dtype in (torch.bool, torch.uint8):
        return target.numel()
    return target.ne(ignore_index).sum()


def own_loss_shifts(model: nn.Module) -> bool | None:
    """Whether a transformers model's loss compares the output at t with the label at t + 1 (the Trainer's
    `_loss_shifts_labels`); None for any other model."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if not hasattr(model, "loss_type"):
        return None
    kind, config = model.loss_type, getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):  # the decoder's input is shifted instead
        return False
    if kind is None:  # no head that transformers' LOSS_MAPPING knows
        name = type(model).__name__
        return name.endswith("LMHeadModel") and not name.startswith(("XLNet", "XLM", "Flaubert"))
    return kind in ("ForCausalLM", "ForConditionalGeneration")


def unpack(output: Any) -> tuple[Tensor | None, Any]:
    """The loss (or None) and the predictions in an output that is a mapping, an object with `.loss`, or a tuple."""
    if isinstance(output, tuple) and not hasattr(output, "loss"):
        # transformers with return_dict=False: (loss, logits, ...) with labels, (logits, ...) without
        if isinstance(output[0], Tensor) and output[0].ndim == 0:
            return output[0], output[1] if len(output) > 1 else None
        return None, output[0]
    fields = output if isinstance(output, Mapping) else {k: getattr(output, k, None) for k in ("loss", "logits")}
    logits = fields.get("logits")
    # an output without logits stays whole, for the task's own criterion
    return fields.get("loss"), output if logits is None else logits


def accepted_keys(model: nn.Module) -> frozenset[str] | None:
    """Names of the arguments that the model's forward takes; None if it takes any."""
    if model not in _ACCEPTED:
        _ACCEPTED[model] = _inspect(model)
    return _ACCEPTED[model]


# an inspection takes about 20 us; the key is the module, because a wrapper's class does not tell what it wraps
_ACCEPTED: WeakKeyDictionary[nn.Module, frozenset[str] | None] = WeakKeyDictionary()


def _inspect(model: nn.Module) -> frozenset[str] | None:
    parameters = inspect.signature(model.forward).parameters.values()
    named = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    if not named:  # forward(*args, **kwargs): DDP, DeepSpeed and torch.compile forward everything to what they wrap
        for attribute in ("module", "_orig_mod"):
            if isinstance(inner := getattr(model, attribute, None), nn.Module):
                return _inspect(inner)
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else named
