"""`model`: the models that come with the package. Any class or function that returns an nn.Module fits the slot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .fields import INCOMPATIBLE, Drift, number


@dataclass(kw_only=True, slots=True)
class GPT:
    """A small decoder-only transformer over bytes (about 0.9 M parameters by default)."""

    _target_: str = "trainer.model.gpt.GPT"
    vocab_size: int = number(256, minimum=1, drift=Drift.incompatible)
    """Token ids the model knows; 256 for bytes."""
    block_size: int = number(128, minimum=1, drift=Drift.incompatible)
    """Longest sequence, in tokens."""
    n_layer: int = number(4, minimum=1, drift=Drift.incompatible)
    """Transformer blocks."""
    n_head: int = number(4, minimum=1, drift=Drift.incompatible)
    """Attention heads per block; divides n_embd."""
    n_embd: int = number(128, minimum=1, drift=Drift.incompatible)
    """Width of the residual stream."""
    dropout: float = number(0.0, minimum=0, below=1)
    """Dropout probability on embeddings, attention and MLP outputs."""


@dataclass(kw_only=True, slots=True)
class MLP:
    """A multilayer perceptron with ReLU between its layers: sizes[0] inputs, sizes[-1] outputs."""

    _target_: str = "trainer.model.mlp.MLP"
    sizes: list[int] = field(default_factory=lambda: [64, 128, 10], metadata=INCOMPATIBLE)
    """Widths of the layers, inputs first."""
    dropout: float = number(0.0, minimum=0, below=1)
    """Dropout probability after each hidden layer."""


@dataclass(kw_only=True, slots=True)
class HFCausalLM:
    """A transformers causal language model built from its config alone: no download, random weights."""

    _target_: str = "trainer.model.huggingface.causal_lm"
    model_type: str = field(default="gpt2", metadata=INCOMPATIBLE)
    """transformers' model_type (AutoConfig.for_model)."""
    config: dict[str, Any] = field(default_factory=dict, metadata=INCOMPATIBLE)
    """The config's fields that differ from the type's defaults."""
