"""`optim`: optimizers of other packages, each an optional dependency; PACKAGES says which.

One dataclass often serves several options, which differ in a field's value (optim=lion_8bit, optim=paged_lion_8bit).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .fields import Choice, number
from .optim import AdamLike, Optim


@dataclass(kw_only=True, slots=True)
class TorchAO(AdamLike):
    """torchao's AdamW with quantised moments of parameters from 4096 elements on; its step is compiled at first use."""

    _target_: str = "torchao.optim.AdamW8bit"
    block_size: int = number(256, minimum=1)
    """Elements that share a scale; only sizes divisible by it are quantised (HF: always 256)."""
    bf16_stochastic_round: bool = False
    """Round updates of bf16 weights at random."""
    amsgrad: bool = False


@dataclass(kw_only=True, slots=True)
class TorchAO4bit(TorchAO):
    """torchao.optim.AdamW4bit. (HF: adamw_torch_4bit)"""

    _target_: str = "torchao.optim.AdamW4bit"


@dataclass(kw_only=True, slots=True)
class TorchAOFp8(TorchAO):
    """torchao.optim.AdamWFp8. (not in HF)"""

    _target_: str = "torchao.optim.AdamWFp8"


@dataclass(kw_only=True, slots=True)
class BitsAndBytes(Optim):
    """What bitsandbytes' optimizers share. With 8 bits embeddings keep 32, as in the Trainer."""

    optim_bits: int = number(32, minimum=8, maximum=32)
    """Bits of the moments, 8 or 32, of parameters from 4096 elements on."""


@dataclass(kw_only=True, slots=True)
class Paged(BitsAndBytes):
    """Those that can be paged."""

    is_paged: bool = False
    """Let the moments move to the CPU's memory when the GPU's is short; without effect on a CPU."""


@dataclass(kw_only=True, slots=True)
class BnbAdamW(AdamLike, Paged):
    """bitsandbytes.optim.AdamW. (HF: adamw_bnb_8bit, adamw_8bit, paged_adamw, paged_adamw_8bit, paged_adamw_32bit)"""

    _target_: str = "bitsandbytes.optim.AdamW"


@dataclass(kw_only=True, slots=True)
class BnbAdEMAMix(AdamLike, Paged):
    """bitsandbytes.optim.AdEMAMix (Pagliardini et al. 2024). (HF: ademamix*, paged_ademamix*)"""

    _target_: str = "bitsandbytes.optim.AdEMAMix"
    beta3: float = number(0.9999, minimum=0, below=1)
    """Third element of betas: of the slow average (HF: optim_args beta3)."""
    alpha: float = number(5.0, minimum=0)
    """Weight of the slow average (HF: optim_args alpha)."""
    t_alpha: int | None = number(None, minimum=1)
    """Steps over which alpha grows from 0."""
    t_beta3: int | None = number(None, minimum=1)
    """Steps over which beta3 grows from beta1."""


@dataclass(kw_only=True, slots=True)
class BnbLion(Paged):
    """bitsandbytes.optim.Lion (Chen et al. 2023). (HF: lion_8bit, lion_32bit, paged_lion_8bit, paged_lion_32bit)"""

    _target_: str = "bitsandbytes.optim.Lion"
    adam_beta1: float = number(0.9, minimum=0, below=1)
    """First element of betas."""
    adam_beta2: float = number(0.999, minimum=0, below=1)
    """Second element of betas: 0.999 as the Trainer passes it; Lion's authors use 0.99."""


@dataclass(kw_only=True, slots=True)
class BnbRMSprop(BitsAndBytes):
    """bitsandbytes.optim.RMSprop. (HF: rmsprop_bnb, rmsprop_bnb_8bit, rmsprop_bnb_32bit)"""

    _target_: str = "bitsandbytes.optim.RMSprop"
    alpha: float = number(0.99, minimum=0, below=1)
    eps: float = number(1e-8, minimum=0)


@dataclass(kw_only=True, slots=True)
class ScheduleFree(Optim):
    """schedulefree (Defazio et al. 2024): trains one set of weights and evaluates, saves and exports their average.
    Goes with scheduler=constant or constant_with_warmup (HF: warms up in the optimizer as well). A checkpoint's model
    is the average; the training's weights are stored beside it."""

    _target_: str = "schedulefree.SGDScheduleFree"
    r: float = number(0.0)
    """Power of the step in the average's weights."""
    weight_lr_power: float = number(2.0)
    """Power of the learning rate in the average's weights."""


@dataclass(kw_only=True, slots=True)
class ScheduleFreeSGD(ScheduleFree):
    """schedulefree.SGDScheduleFree. (HF: schedule_free_sgd)"""

    momentum: float = number(0.9, above=0, below=1)


@dataclass(kw_only=True, slots=True)
class ScheduleFreeRAdam(AdamLike, ScheduleFree):
    """schedulefree.RAdamScheduleFree: warms up by itself. (HF: schedule_free_radam)"""

    _target_: str = "schedulefree.RAdamScheduleFree"
    silent_sgd_phase: bool = True
    """No movement in the first steps (4 with the usual betas), where RAdam's variance is unknown; false: SGD there."""


@dataclass(kw_only=True, slots=True)
class ScheduleFreeAdamW(AdamLike, ScheduleFree):
    """schedulefree.AdamWScheduleFree. (HF: schedule_free_adamw)"""

    _target_: str = "schedulefree.AdamWScheduleFree"


class Projection(Choice):
    std = "std"
    reverse_std = "reverse_std"
    right = "right"
    left = "left"
    full = "full"


@dataclass(kw_only=True, slots=True)
class Projected(Optim):
    """Gradients of chosen linear layers projected to a low rank. Weight decay and the betas act on all parameters (HF
    leaves them at the library's defaults)."""

    optim_target_modules: Any = "all-linear"
    """The linear layers: `all-linear`, a regular expression of their whole name, or a list of parts of names or
    expressions (HF: optim_target_modules, which has no default)."""
    rank: int = number(128, minimum=1)
    update_proj_gap: int = number(200, minimum=1)
    """Steps between new projections."""
    scale: float = number(0.25, minimum=0)
    """Factor of the projected update."""
    proj_type: Projection = Projection.std
    """Which side is projected."""
    layerwise: bool = False
    """Update each parameter inside backward, as soon as its gradient is whole, and free the gradient: the numbers are
    the same, and one gradient exists at a time (HF: the names that end in _layerwise)."""


@dataclass(kw_only=True, slots=True)
class GaLoreAdamW(AdamLike, Projected):
    """galore_torch.GaLoreAdamW (Zhao et al. 2024). (HF: galore_adamw, galore_adamw_layerwise)"""

    _target_: str = "trainer.optim.galore.adamw"
    adam_epsilon: float = number(1e-6, minimum=0)
    """The class's eps; 1e-6 is what the Trainer leaves it at."""


@dataclass(kw_only=True, slots=True)
class GaLoreAdamW8bit(AdamLike, Projected):
    """GaLore on bitsandbytes' AdamW: 8-bit moments of projections from 4096 elements on. (HF: galore_adamw_8bit and
    galore_adamw_8bit_layerwise, which need CUDA and decay all weights by 0.01)"""

    _target_: str = "trainer.optim.galore_8bit.GaLoreAdamW8bit"


@dataclass(kw_only=True, slots=True)
class GaLoreAdafactor(Projected):
    """galore_torch.GaLoreAdafactor with an external learning rate. (HF: galore_adafactor, and
    galore_adafactor_layerwise, which fails there)"""

    _target_: str = "trainer.optim.galore.adafactor"
    clip_threshold: float = number(1.0, above=0)
    decay_rate: float = number(-0.8, below=0)
    beta1: float | None = number(None, minimum=0, below=1)


class Projector(Choice):
    random = "random"
    svd = "svd"


class ScaleType(Choice):
    channel = "channel"
    tensor = "tensor"


@dataclass(kw_only=True, slots=True)
class ApolloAdamW(AdamLike, Projected):
    """apollo_torch.APOLLOAdamW (Zhu et al. 2024). (HF: apollo_adamw and apollo_adamw_layerwise, which pass betas and
    eps to the chosen layers only)"""

    _target_: str = "apollo_torch.APOLLOAdamW"
    scale: float = number(1.0, minimum=0)
    proj: Projector = Projector.random
    scale_type: ScaleType = ScaleType.channel


@dataclass(kw_only=True, slots=True)
class StableAdamW(AdamLike):
    """optimi.StableAdamW: AdamW with Adafactor's update clipping (Wortsman et al. 2023). (HF: stable_adamw)"""

    _target_: str = "optimi.StableAdamW"
    max_lr: float | None = number(None, minimum=0)
    """Peak of the schedule, for decouple_lr."""
    kahan_sum: bool | None = None
    """Compensated sums; None: for 16-bit weights (HF: any text is true)."""
    decouple_lr: bool = False
    """Weight decay independent of the learning rate (HF: any text is true)."""


@dataclass(kw_only=True, slots=True)
class SOAP(AdamLike):
    """pytorch_optimizer.SOAP: Adam in Shampoo's eigenbasis (Vyas et al. 2024). The first step moves nothing."""

    _target_: str = "pytorch_optimizer.SOAP"
    adam_beta1: float = number(0.95, minimum=0, below=1)
    adam_beta2: float = number(0.95, minimum=0, below=1)
    shampoo_beta: float | None = number(None, minimum=0, below=1)
    """Decay of the preconditioner's statistics; None: adam_beta2."""
    precondition_frequency: int = number(10, minimum=1)
    """Steps between new eigenbases."""
    max_precondition_dim: int = number(10_000, minimum=1)
    """Longer sides are left as they are."""
    precondition_1d: bool = False


@dataclass(kw_only=True, slots=True)
class ApexAdam(AdamLike):
    """apex.optimizers.FusedAdam, decoupled decay; GPU. (HF until 5.7: adamw_apex_fused)"""

    _target_: str = "apex.optimizers.FusedAdam"


@dataclass(kw_only=True, slots=True)
class XlaAdamW(AdamLike):
    """torch_xla.amp.syncfree.AdamW, for XLA devices. (HF: adamw_torch_xla)"""

    _target_: str = "torch_xla.amp.syncfree.AdamW"


@dataclass(kw_only=True, slots=True)
class NpuAdamW(AdamLike):
    """torch_npu.optim.NpuFusedAdamW, for Ascend NPUs. (HF: adamw_torch_npu_fused)"""

    _target_: str = "torch_npu.optim.NpuFusedAdamW"


@dataclass(kw_only=True, slots=True)
class AnyPrecisionAdamW(AdamLike):
    """torchdistx.optimizers.AnyPrecisionAdamW; its 32-bit moments. (HF: adamw_anyprecision)"""

    _target_: str = "torchdistx.optimizers.AnyPrecisionAdamW"
    use_kahan_summation: bool = False


PACKAGES: dict[type, tuple[str, str]] = {
    TorchAO: ("torchao", "pip install torchao"),
    BitsAndBytes: ("bitsandbytes", "pip install bitsandbytes"),
    ScheduleFree: ("schedulefree", "pip install schedulefree"),
    GaLoreAdamW: ("galore_torch", "pip install galore-torch"),
    GaLoreAdamW8bit: ("galore_torch", "pip install galore-torch"),  # which installs bitsandbytes
    GaLoreAdafactor: ("galore_torch", "pip install galore-torch"),
    ApolloAdamW: ("apollo_torch", "pip install apollo-torch"),
    StableAdamW: ("optimi", "pip install torch-optimi"),
    SOAP: ("pytorch_optimizer", "pip install pytorch-optimizer"),
    ApexAdam: ("apex", "optim=adamw_fused (torch's; NVIDIA apex is built from source)"),
    XlaAdamW: ("torch_xla", "pip install torch_xla"),
    NpuAdamW: ("torch_npu", "pip install torch_npu"),
    AnyPrecisionAdamW: ("torchdistx", "optim=adamw (torchdistx has no wheels for today's Pythons)"),
}
"""(module, what to do when it is missing) of each option and its descendants."""
