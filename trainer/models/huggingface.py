"""transformers models, built from a config alone."""

from __future__ import annotations

from torch import nn

from ..schema import model as schema


def causal_lm(node: schema.HFCausalLM) -> nn.Module:
    """A causal language model with random weights; nothing is downloaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(node.model_type, **node.config))
    return model
