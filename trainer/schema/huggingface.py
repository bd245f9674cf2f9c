"""Hugging Face's TrainingArguments and this tree: each field's home, older names, and what is said about the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SECTIONS = {
    "run": "output_dir run_name project seed full_determinism do_train do_eval do_predict use_cpu debug",
    "train": "per_device_train_batch_size num_train_epochs max_steps gradient_accumulation_steps max_grad_norm"
    " average_tokens_across_devices label_smoothing_factor neftune_noise_alpha auto_find_batch_size",
    "data": "data_seed dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers"
    " dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order remove_unused_columns"
    " label_names train_sampling_strategy length_column_name",
    "optim": "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon optim_args optim_target_modules",
    "scheduler": "warmup_steps warmup_ratio learning_rate_end power num_cycles min_lr factor patience"
    " threshold cooldown",
    "precision": "bf16 fp16 tf32 bf16_full_eval fp16_full_eval",
    "parallel": "ddp_backend ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers"
    " ddp_static_graph min_num_params transformer_layer_cls_to_wrap cpu_ram_efficient_loading",
    "memory": "activation_checkpointing activation_checkpointing_kwargs torch_empty_cache_steps use_cache",
    "compile": "torch_compile torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config",
    "evaluation": "eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps eval_do_concat_batches"
    " eval_use_gather_object per_device_eval_batch_size prediction_loss_only include_for_metrics batch_eval_metrics",
    "checkpoint": "save_strategy save_steps save_total_limit save_only_model save_on_each_node save_safetensors"
    " load_best_model_at_end metric_for_best_model greater_is_better resume_from_checkpoint ignore_data_skip"
    " restore_callback_states_from_checkpoint enable_jit_checkpoint",
    "logging": "logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level log_level_replica"
    " log_on_each_node include_num_input_tokens_seen include_tokens_per_second disable_tqdm skip_memory_metrics",
    "hub": "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision",
    "logging.reporters.trackio": "trackio_space_id trackio_bucket_id trackio_static_space_id",
    "callbacks.early_stopping": "early_stopping_patience early_stopping_threshold",
}
HOMES: dict[str, str] = {leaf: f"{section}.{leaf}" for section, names in _SECTIONS.items() for leaf in names.split()}
"""Name -> full key, for every name that is one key here."""

RENAMED: dict[str, str] = {
    "evaluation_strategy": "evaluation.eval_strategy",
    "gradient_checkpointing": "memory.activation_checkpointing",
    "gradient_checkpointing_kwargs": "memory.activation_checkpointing_kwargs",
    "use_reentrant": "memory.activation_checkpointing_kwargs",
    "per_device_batch_size": "train.per_device_train_batch_size",
    "per_gpu_train_batch_size": "train.per_device_train_batch_size",
    "per_gpu_eval_batch_size": "evaluation.per_device_eval_batch_size",
    "batch_size": "train.per_device_train_batch_size",
    "train_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "evaluation.per_device_eval_batch_size",
    "lr": "optim.learning_rate",
    "wd": "optim.weight_decay",
    "epochs": "train.num_train_epochs",
    "num_epochs": "train.num_train_epochs",
    "max_epochs": "train.num_train_epochs",
    "steps": "train.max_steps",
    "grad_accum": "train.gradient_accumulation_steps",
    "accumulate_grad_batches": "train.gradient_accumulation_steps",
    "clip": "train.max_grad_norm",
    "grad_clip": "train.max_grad_norm",
    "warmup": "scheduler.warmup_steps",
    "lr_end": "scheduler.learning_rate_end",
    "num_workers": "data.dataloader_num_workers",
    "resume": "checkpoint.resume_from_checkpoint",
    "no_cuda": "run.use_cpu",
    "logging_dir": "logging.reporters.tensorboard.log_dir",
    "torchdynamo": "compile.torch_compile_backend",
    "fsdp_transformer_layer_cls_to_wrap": "parallel.transformer_layer_cls_to_wrap",
    "nproc_per_node": "launch.nproc_per_node",
    "nproc": "launch.nproc_per_node",
    "gpus": "launch.nproc_per_node",
    "n_gpu": "launch.nproc_per_node",
    "world_size": "launch.nproc_per_node",
}
"""Older, informal and neighbouring names -> full key."""

OPTIMIZERS: dict[str, str] = {
    "adamw_torch": "adamw",
    "adamw_hf": "adamw",
    "adam": "adamw",
    "adamw_torch_fused": "adamw_fused",
    "fused_adam": "adamw_fused",
    "adamw_apex": "adamw_fused",
    "adamw_apex_fused": "adamw_fused",
    "sgd": "sgd",
    "adagrad": "adagrad",
    "adafactor": "adafactor",
    "rmsprop": "rmsprop",
}
"""OptimizerNames' values -> option of `optim`."""

CHOICES: dict[str, str] = {
    "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler",
    "optimizer": "optim",
    "report_to": "logging",
    "dataset": "data",
    "dtype": "precision",
}
"""Names whose value is an option here -> group."""

PARALLEL = {"fsdp": "parallel=fsdp", "fsdp_config": "parallel=fsdp", "deepspeed": "parallel=zero3"}

GROUP_FIELDS = {"optim": "optim", "lr_scheduler_kwargs": "scheduler", "parallelism_config": "parallel"}
"""Fields whose content is a whole group here."""

REMARKS: dict[str, str] = {
    "lr_scheduler_kwargs": "are fields of `scheduler` under their own names, as scheduler.num_cycles=0.5",
    "parallelism_config": "is the choice parallel=single|ddp|fsdp|zero1|zero2|zero3",
    "accelerator_config": "its fields have homes of their own: train.gradient_accumulation_steps, data.*",
    "overwrite_output_dir": "runs never overwrite each other; checkpoint.resume_from_checkpoint=auto goes on with one",
    "local_rank": "the rank comes from the environment (torchrun, or launch.nproc_per_node)",
    "rank": "the rank comes from the environment (torchrun, or launch.nproc_per_node)",
    "fp16_opt_level": "belonged to Apex; mixed precision is chosen by precision=bf16 or precision=fp16",
    "half_precision_backend": "belonged to Apex; mixed precision is chosen by precision=bf16 or precision=fp16",
    "jit_mode_eval": "was removed from transformers in 5.0 and has no equivalent here",
    "past_index": "was removed from transformers in 5.0 and has no equivalent here",
    "tpu_num_cores": "was removed from transformers in 5.0; TPUs are not supported here",
    "use_mps_device": "was removed from transformers in 5.0: a visible device is used unless run.use_cpu=true",
    "ray_scope": "was removed from transformers in 5.0; sweeps are `-m KEY=a,b`",
    "group_by_length": "is data.train_sampling_strategy=group_by_length",
    "scale_parameter": "the Trainer always runs Adafactor with it off, and so does optim=adafactor",
    "relative_step": "the Trainer always runs Adafactor with it off, and so does optim=adafactor",
    "warmup_init": "needs Adafactor's relative_step, which is always off; scheduler.warmup_steps warms up",
    "betas": "are optim.adam_beta1 and optim.adam_beta2",
    "fsdp_version": "parallel=fsdp is FSDP2",
    "backward_prefetch": "belonged to FSDP1; parallel=fsdp is FSDP2, which prefetches by itself",
    "forward_prefetch": "belonged to FSDP1; parallel=fsdp is FSDP2",
    "limit_all_gathers": "belonged to FSDP1; parallel=fsdp is FSDP2",
    "use_orig_params": "belonged to FSDP1; parallel=fsdp is FSDP2, which always does",
    "sync_module_states": "belonged to FSDP1; every engine starts from rank 0's weights",
    "validate_parameters": "no such argument exists; every run is validated before it starts",
    "adamw_hf": "is an optimizer: optim=adamw",
    "adamw_apex": "is an optimizer: optim=adamw_fused",
    "fused_adam": "is an optimizer: optim=adamw_fused",
    "lion": "is an optimizer that is not among optim's options; optim._target_=package.Lion takes any class",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What to tell someone who typed one of the names above."""

    suggestion: str | None = None
    what: str | None = None


def home(name: str) -> str | None:
    """The full key of a TrainingArguments name, or of an older or informal one; the schema may not have it yet."""
    return HOMES.get(name) or RENAMED.get(name)


def answer(name: str, value: Any) -> Answer | None:
    """The answer to ``name=value`` where ``name`` is no key; None when the name means nothing to us."""
    from ..problems import show
    from .tree import leaves

    if name in PARALLEL:
        return Answer(suggestion=PARALLEL[name], what="how a model is spread over the ranks is chosen by parallel=")
    if name in CHOICES:
        group = CHOICES[name]
        option = choice_word(group, show(value))
        return Answer(suggestion=f"{group}={option}")
    if name in REMARKS:
        return Answer(what=REMARKS[name])
    full = home(name)
    if full is None:
        return None
    if full not in leaves():
        return Answer(what=f"will be {full}, which is not available yet in this version")
    return Answer(suggestion=f"{full}={show(value)}")


def choice_word(group: str, word: str) -> str:
    """An option's name here for Hugging Face's word."""
    if group == "optim":
        return OPTIMIZERS.get(word, word)
    return {"all": "[console,tensorboard,wandb]"}.get(word, word)


def choice(group: str, word: str) -> str | None:
    """The override to paste for ``group=word`` where ``word`` is Hugging Face's name of one of our options."""
    known = choice_word(group, word)
    return f"{group}={known}" if known != word else None
