"""`optim`: Hugging Face's shared names, and each optimizer's own arguments under torch's names.

A None means the class's own default. Weight decay spares biases and norms by the Trainer's rule. Optimizers of other
packages are in optim_packages.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .fields import FREE, number


@dataclass(kw_only=True, slots=True)
class Optim:
    """What every optimizer takes."""

    _target_: str = "torch.optim.SGD"
    learning_rate: float = number(5e-5, minimum=0)
    """Peak learning rate; the scheduler multiplies it (HF: learning_rate; torch: lr)."""
    weight_decay: float = number(0.0, minimum=0)
    """Decay of the parameters that are neither biases nor norms (HF: weight_decay)."""
    optim_args: Any = None
    """More arguments of the class, over the fields: `k=v,k2=v2` or a mapping (HF: optim_args). Names are fields or the
    class's own arguments; an unknown one is an error, and values are typed (HF ignores it, and casts some wrongly)."""


@dataclass(kw_only=True)  # no slots: two bases with slots do not mix
class AdamLike(Optim):
    """What the descendants of Adam share."""

    adam_beta1: float = number(0.9, minimum=0, below=1)
    """First element of the class's betas (HF: adam_beta1)."""
    adam_beta2: float = number(0.999, minimum=0, below=1)
    """Second element of the class's betas (HF: adam_beta2)."""
    adam_epsilon: float = number(1e-8, minimum=0)
    """The class's eps (HF: adam_epsilon)."""


@dataclass(kw_only=True, slots=True)
class AdamW(AdamLike):
    """torch.optim.AdamW, decoupled weight decay (Loshchilov and Hutter 2019)."""

    _target_: str = "torch.optim.AdamW"
    amsgrad: bool = False
    foreach: bool | None = field(default=None, metadata=FREE)
    fused: bool | None = field(default=None, metadata=FREE)
    """One kernel for all parameters; equal to the default to about 1e-6, not to the bit."""
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Adam(AdamLike):
    """torch.optim.Adam (Kingma and Ba 2015): weight decay as an L2 penalty."""

    _target_: str = "torch.optim.Adam"
    amsgrad: bool = False
    foreach: bool | None = field(default=None, metadata=FREE)
    fused: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class NAdam(AdamLike):
    """torch.optim.NAdam (Dozat 2016)."""

    _target_: str = "torch.optim.NAdam"
    momentum_decay: float = number(4e-3, minimum=0)
    decoupled_weight_decay: bool = False
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class RAdam(AdamLike):
    """torch.optim.RAdam (Liu et al. 2020)."""

    _target_: str = "torch.optim.RAdam"
    decoupled_weight_decay: bool = False
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Adamax(AdamLike):
    """torch.optim.Adamax (Kingma and Ba 2015)."""

    _target_: str = "torch.optim.Adamax"
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Adadelta(Optim):
    """torch.optim.Adadelta (Zeiler 2012)."""

    _target_: str = "torch.optim.Adadelta"
    rho: float = number(0.9, minimum=0, maximum=1)
    eps: float = number(1e-6, minimum=0)
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class ASGD(Optim):
    """torch.optim.ASGD (Polyak and Juditsky 1992)."""

    _target_: str = "torch.optim.ASGD"
    lambd: float = number(1e-4)
    alpha: float = number(0.75)
    t0: float = number(1e6)
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Rprop(Optim):
    """torch.optim.Rprop (Riedmiller and Braun 1993), for whole-batch gradients; takes no weight decay."""

    _target_: str = "torch.optim.Rprop"
    etas: list[float] | None = None
    """Factors of a step size when a gradient's sign changes and when it does not; default (0.5, 1.2)."""
    step_sizes: list[float] | None = None
    """The least and the greatest step size; default (1e-6, 50)."""
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class GrokAdamW(AdamLike):
    """GrokAdamW (grokadamw 0.1.2): AdamW on gradients with their slow average added; the packaged class keeps its state
    where no checkpoint finds it. Without the package's grokking signals, which the Trainer cannot set either."""

    _target_: str = "trainer.optim.grokadamw.GrokAdamW"
    alpha_init: float = number(0.98, minimum=0, maximum=1)
    """Decay of the gradients' slow average."""
    lamb: float = number(2.0)
    """How much of the slow average is added to the gradient."""
    gamma: float = number(0.1, minimum=0, maximum=1)
    """The i-th parameter's first beta is adam_beta1 (1 - gamma)^i."""
    gradient_clipping: float = number(1.0, minimum=0)
    """Largest norm of each parameter's gradient; 0 clips none."""


@dataclass(kw_only=True, slots=True)
class SGD(Optim):
    """torch.optim.SGD."""

    _target_: str = "torch.optim.SGD"
    momentum: float = number(0.0, minimum=0)
    dampening: float = number(0.0)
    nesterov: bool = False
    foreach: bool | None = field(default=None, metadata=FREE)
    fused: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class LOMO(Optim):
    """LOMO (Lv et al. 2023, arXiv:2306.09782): SGD that updates inside backward. (HF: lomo, which decays no weights)"""

    layerwise: bool = True
    """False: torch.optim.SGD as usual."""


@dataclass(kw_only=True, slots=True)
class Adagrad(Optim):
    """torch.optim.Adagrad (Duchi et al. 2011)."""

    _target_: str = "torch.optim.Adagrad"
    lr_decay: float = number(0.0, minimum=0)
    initial_accumulator_value: float = number(0.0, minimum=0)
    eps: float = number(1e-10, minimum=0)
    foreach: bool | None = field(default=None, metadata=FREE)
    fused: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class RMSprop(Optim):
    """torch.optim.RMSprop."""

    _target_: str = "torch.optim.RMSprop"
    alpha: float = number(0.99, minimum=0, maximum=1)
    eps: float = number(1e-8, minimum=0)
    momentum: float = number(0.0, minimum=0)
    centered: bool = False
    foreach: bool | None = field(default=None, metadata=FREE)
    maximize: bool = False


@dataclass(kw_only=True, slots=True)
class Adafactor(Optim):
    """Adafactor with an external learning rate (Shazeer and Stern 2018), as the HF Trainer uses it:
    relative_step off. torch.optim.Adafactor is another parametrisation."""

    _target_: str = "trainer.optim.adafactor.Adafactor"
    eps: list[float] | None = None
    """(eps1, eps2): added to the squared gradient, and the floor of the parameter scale; default (1e-30, 1e-3)."""
    clip_threshold: float = number(1.0, above=0)
    """Threshold of the root mean square of an update."""
    decay_rate: float = number(-0.8, below=0)
    """Exponent of the running average of the squared gradient."""
    beta1: float | None = number(None, minimum=0, below=1)
    """First-moment coefficient; None keeps no first moment."""
    scale_parameter: bool = False
    """Multiply a parameter's learning rate by its root mean square, or by eps2 if that is larger (HF: always off)."""


@dataclass(kw_only=True, slots=True)
class AdaLomo(Adafactor):
    """AdaLomo (Lv et al. 2023, arXiv:2310.10195): Adafactor whose steps are relative to the parameters', updated inside
    backward. (HF: adalomo, which needs CUDA and decays no weights)"""

    scale_parameter: bool = True
    layerwise: bool = True
    """Update each parameter inside backward, as soon as its gradient is whole."""


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
