"""`optim`: Hugging Face's shared names, and each optimizer's own arguments under torch's names.

A None means the class's own default. Weight decay spares biases and norms by the Trainer's rule.
"""

from __future__ import annotations

from dataclasses import dataclass

from .fields import number


@dataclass(kw_only=True, slots=True)
class Optim:
    """What every optimizer takes."""

    _target_: str = "torch.optim.SGD"
    learning_rate: float = number(5e-5, minimum=0)
    """Peak learning rate; the scheduler multiplies it (HF: learning_rate; torch: lr)."""
    weight_decay: float = number(0.0, minimum=0)
    """Decay of the parameters that are neither biases nor norms (HF: weight_decay)."""


@dataclass(kw_only=True, slots=True)
class AdamW(Optim):
    """torch.optim.AdamW, decoupled weight decay (Loshchilov and Hutter 2019)."""

    _target_: str = "torch.optim.AdamW"
    adam_beta1: float = number(0.9, minimum=0, below=1)
    """First element of torch's betas (HF: adam_beta1)."""
    adam_beta2: float = number(0.999, minimum=0, below=1)
    """Second element of torch's betas (HF: adam_beta2)."""
    adam_epsilon: float = number(1e-8, minimum=0)
    """torch's eps (HF: adam_epsilon)."""
    amsgrad: bool = False
    foreach: bool | None = None
    fused: bool | None = None
    """One kernel for all parameters; equal to the default to about 1e-6, not to the bit."""
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class SGD(Optim):
    """torch.optim.SGD."""

    _target_: str = "torch.optim.SGD"
    momentum: float = number(0.0, minimum=0)
    dampening: float = number(0.0)
    nesterov: bool = False
    foreach: bool | None = None
    fused: bool | None = None
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Adagrad(Optim):
    """torch.optim.Adagrad (Duchi et al. 2011)."""

    _target_: str = "torch.optim.Adagrad"
    lr_decay: float = number(0.0, minimum=0)
    initial_accumulator_value: float = number(0.0, minimum=0)
    eps: float = number(1e-10, minimum=0)
    foreach: bool | None = None
    fused: bool | None = None
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class RMSprop(Optim):
    """torch.optim.RMSprop."""

    _target_: str = "torch.optim.RMSprop"
    alpha: float = number(0.99, minimum=0, maximum=1)
    eps: float = number(1e-8, minimum=0)
    momentum: float = number(0.0, minimum=0)
    centered: bool = False
    foreach: bool | None = None
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Adafactor(Optim):
    """Adafactor with an external learning rate (Shazeer and Stern 2018), as the HF Trainer uses it:
    scale_parameter and relative_step off. torch.optim.Adafactor is another parametrisation."""

    _target_: str = "trainer.optim.adafactor.Adafactor"
    eps: list[float] | None = None
    """(eps1, eps2): added to the squared gradient, and the floor of the parameter scale; default (1e-30, 1e-3)."""
    clip_threshold: float = number(1.0, above=0)
    """Threshold of the root mean square of an update."""
    decay_rate: float = number(-0.8, below=0)
    """Exponent of the running average of the squared gradient."""
    beta1: float | None = number(None, minimum=0, below=1)
    """First-moment coefficient; None keeps no first moment."""


@dataclass(kw_only=True, slots=True)
class Muon(Optim):
    """Muon (Jordan 2024; torch.optim.Muon) for the hidden matrices, AdamW for everything else, in one optimizer."""

    _target_: str = "trainer.optim.muon.Muon"
    momentum: float = number(0.95, minimum=0, below=1)
    nesterov: bool = True
    ns_steps: int = number(5, minimum=1)
    """Newton-Schulz iterations."""
    adjust_lr_fn: str = "match_rms_adamw"
    """torch.optim.Muon's: `original` or `match_rms_adamw` (the AdamW learning rate fits the matrices too)."""
    adam_beta1: float = number(0.9, minimum=0, below=1)
    """For the parameters that AdamW updates."""
    adam_beta2: float = number(0.999, minimum=0, below=1)
    adam_epsilon: float = number(1e-8, minimum=0)
