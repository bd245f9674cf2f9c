"""transformers models, built from a config without a download."""

from __future__ import annotations

from torch import nn

from ..schema import model as schema


def causal_lm(node: schema.HFCausalLM) -> nn.Module:
    """A causal language model with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(node.model_type, **node.config))
    if getattr(model, "loss_type", "") is None:
        # transformers 5.23 does not infer it from the name GPT2LMHeadModel, and warns before it falls back to this one
        model.loss_type = "ForCausalLM"  # type: ignore[assignment]
    return model
