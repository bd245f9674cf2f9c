"""Floor 0: what a config may hold. Dataclasses only; no torch, no I/O, no behaviour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from .config import Config

__all__ = ["OPTIONS", "Config"]


class Options(Mapping[str, type]):
    """The typed options of a group. A class is made when it is asked for: all of them take 25 ms, a tenth of what
    `--cfg job` takes.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type:
        module, _, cls = self._places[name].partition(":")
        found: type = getattr(import_module(f".{module}", __name__), cls)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


_OPTIONS: dict[str, dict[str, str]] = {
    "optim": {
        "optim": "optim:Optim",
        "adamw": "optim:AdamW",
        "sgd": "optim:SGD",
        "lomo": "optim:LOMO",
        "adagrad": "optim:Adagrad",
        "rmsprop": "optim:RMSprop",
        "adafactor": "optim:Adafactor",
        "adalomo": "optim:AdaLomo",
        "muon": "optim:Muon",
        "adam": "optim:Adam",
        "nadam": "optim:NAdam",
        "radam": "optim:RAdam",
        "adamax": "optim:Adamax",
        "adadelta": "optim:Adadelta",
        "asgd": "optim:ASGD",
        "rprop": "optim:Rprop",
        "grokadamw": "optim:GrokAdamW",
        "torchao": "optim_packages:TorchAO",
        "torchao_4bit": "optim_packages:TorchAO4bit",
        "torchao_fp8": "optim_packages:TorchAOFp8",
        "bnb_adamw": "optim_packages:BnbAdamW",
        "bnb_ademamix": "optim_packages:BnbAdEMAMix",
        "bnb_lion": "optim_packages:BnbLion",
        "bnb_rmsprop": "optim_packages:BnbRMSprop",
        "schedule_free_sgd": "optim_packages:ScheduleFreeSGD",
        "schedule_free_radam": "optim_packages:ScheduleFreeRAdam",
        "schedule_free_adamw": "optim_packages:ScheduleFreeAdamW",
        "galore_adamw": "optim_packages:GaLoreAdamW",
        "galore_adamw_8bit": "optim_packages:GaLoreAdamW8bit",
        "galore_adafactor": "optim_packages:GaLoreAdafactor",
        "apollo_adamw": "optim_packages:ApolloAdamW",
        "stable_adamw": "optim_packages:StableAdamW",
        "soap": "optim_packages:SOAP",
        "apex": "optim_packages:ApexAdam",
        "torch_xla": "optim_packages:XlaAdamW",
        "torch_npu": "optim_packages:NpuAdamW",
        "anyprecision": "optim_packages:AnyPrecisionAdamW",
    },
    "scheduler": {
        "constant": "scheduler:Constant",
        "constant_with_warmup": "scheduler:Warmup",
        "linear": "scheduler:Linear",
        "cosine": "scheduler:Cosine",
        "cosine_with_restarts": "scheduler:CosineWithRestarts",
        "cosine_with_min_lr": "scheduler:CosineWithMinLR",
        "cosine_warmup_with_min_lr": "scheduler:CosineWarmupWithMinLR",
        "polynomial": "scheduler:Polynomial",
        "inverse_sqrt": "scheduler:InverseSqrt",
        "warmup_stable_decay": "scheduler:WarmupStableDecay",
        "reduce_lr_on_plateau": "scheduler:ReduceLROnPlateau",
        "greedy": "scheduler:Greedy",
    },
    "parallel": {
        "single": "parallel:Single",
        "ddp": "parallel:DDP",
        "fsdp": "parallel:FSDP",
        "mesh": "parallel:Mesh",
        "deepspeed": "parallel:DeepSpeed",
    },
    "model": {"gpt": "model:GPT", "mlp": "model:MLP", "hf_causal_lm": "model:HFCausalLM"},
    "data": {"text": "data:TextBlocks", "digits": "data:Digits"},
    "task": {
        "language_modeling": "task:LanguageModeling",
        "classification": "task:Classification",
        "regression": "task:Regression",
    },
    "reporters": {
        "console": "logging:Console",
        "csv": "logging:Csv",
        "tensorboard": "logging:TensorBoard",
        "wandb": "logging:Wandb",
        "mlflow": "trackers:MLflow",
        "trackio": "trackers:Trackio",
        "comet_ml": "trackers:Comet",
        "clearml": "trackers:ClearML",
        "dvclive": "trackers:DVCLive",
        "codecarbon": "trackers:CodeCarbon",
        "neptune": "trackers:Neptune",
        "swanlab": "trackers:SwanLab",
        "aim": "trackers:Aim",
        "flyte": "trackers:Flyte",
        "azure_ml": "trackers:AzureML",
    },
    "callbacks": {"early_stopping": "callbacks:EarlyStopping"},
    "cluster": {"slurm": "cluster:Slurm", "ray": "cluster:Ray"},
}

OPTIONS: dict[str, Mapping[str, type]] = {group: Options(places) for group, places in _OPTIONS.items()}
"""Typed options, stored in Hydra as /schema/<group>/<name>; conf/<group>/*.yaml name them in their defaults."""
