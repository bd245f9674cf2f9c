"""Hugging Face's TrainingArguments and this tree: each field's home, older names, and what is said about the rest.

The one table for hints, `import training-arguments` and `export training-arguments`.
"""

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
    "adamw_torch_fused": "adamw_fused",
    "fused_adam": "adamw_fused",
    "adamw_apex": "adamw_fused",
    "adamw_bnb_8bit": "adamw_8bit",
    "rmsprop_bnb_32bit": "rmsprop_bnb",
    "paged_adamw": "paged_adamw_32bit",
    "lion": "lion_32bit",
    "paged_lion": "paged_lion_32bit",
    "paged_ademamix": "paged_ademamix_32bit",
}
"""OptimizerNames' values -> option of `optim`; the others keep their name."""

CHOICES: dict[str, str] = {
    "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler",
    "optimizer": "optim",
    "report_to": "logging",
    "dataset": "data",
    "dtype": "precision",
}
"""Names whose value is an option here -> group."""

GPT2 = {"hidden_size": "n_embd", "d_model": "n_embd", "num_hidden_layers": "n_layer", "num_layers": "n_layer"}
GPT2 |= {"num_attention_heads": "n_head", "num_heads": "n_head", "n_positions": "block_size"}
GPT2 |= {"max_position_embeddings": "block_size", "n_ctx": "block_size"}
"""Other models' names of model=gpt's fields."""

PARALLEL = {"fsdp": "parallel=fsdp", "fsdp_config": "parallel=fsdp", "deepspeed": "parallel=zero3"}

_NONE = (
    "output_dir run_name resume_from_checkpoint eval_accumulation_steps eval_steps optim_args optim_target_modules"
    " lr_scheduler_kwargs save_total_limit label_names data_seed dataloader_prefetch_factor torch_compile_backend"
    " dataloader_multiprocessing_context torch_compile_mode torch_empty_cache_steps gradient_checkpointing"
    " gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs liger_kernel_config tf32"
    " ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph fsdp fsdp_config"
    " deepspeed accelerator_config parallelism_config metric_for_best_model greater_is_better hub_model_id hub_token"
    " hub_private_repo hub_revision disable_tqdm neftune_noise_alpha trackio_space_id trackio_bucket_id"
    " trackio_static_space_id"
)
_FALSE = (
    "do_train do_eval do_predict eval_on_start eval_use_gather_object prediction_loss_only batch_eval_metrics"
    " logging_first_step save_on_each_node save_only_model dataloader_drop_last dataloader_persistent_workers"
    " torch_compile auto_find_batch_size use_liger_kernel bf16 fp16 bf16_full_eval fp16_full_eval use_cpu"
    " full_determinism load_best_model_at_end push_to_hub hub_always_push ignore_data_skip"
    " restore_callback_states_from_checkpoint use_cache enable_jit_checkpoint"
)
_TRUE = (
    "eval_do_concat_batches logging_nan_inf_filter log_on_each_node remove_unused_columns dataloader_pin_memory"
    " skip_memory_metrics average_tokens_across_devices dataloader_in_order"
)
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_NONE.split()),
    **dict.fromkeys(_FALSE.split(), False),
    **dict.fromkeys(_TRUE.split(), True),
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "max_grad_norm": 1.0,
    "label_smoothing_factor": 0.0,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "optim": "adamw_torch_fused",
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "eval_strategy": "no",
    "eval_delay": 0,
    "include_for_metrics": [],
    "logging_strategy": "steps",
    "logging_steps": 500,
    "log_level": "passive",
    "log_level_replica": "warning",
    "report_to": "none",
    "project": "huggingface",
    "include_num_input_tokens_seen": "no",
    "save_strategy": "steps",
    "save_steps": 500,
    "dataloader_num_workers": 0,
    "train_sampling_strategy": "random",
    "length_column_name": "length",
    "seed": 42,
    "debug": "",
    "local_rank": -1,
    "ddp_timeout": 1800,
    "hub_strategy": "every_save",
}
"""The fields of TrainingArguments 5.23 and their defaults."""

OLD_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "overwrite_output_dir": (False,),
    "fp16_opt_level": ("O1",),
    "fp16_backend": ("auto",),
    "half_precision_backend": ("auto",),
    "jit_mode_eval": (False,),
    "past_index": (-1,),
    "tpu_num_cores": (None,),
    "use_mps_device": (False,),
    "use_ipex": (False,),
    "use_legacy_prediction_loop": (False,),
    "ray_scope": ("last",),
    "mp_parameters": ("",),
    "sharded_ddp": ("", []),
    "dispatch_batches": (None,),
    "split_batches": (None, False),
    "local_rank": (-1, 0),
    "_n_gpu": (0, 1),
    "sortish_sampler": (False,),
    "predict_with_generate": (False,),
    "generation_max_length": (None,),
    "generation_num_beams": (None,),
    "generation_config": (None,),
}
"""Names without a home, of older releases and of Seq2SeqTrainingArguments: the values that say nothing."""

SAME: dict[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "torchdynamo": "torch_compile_backend",
    "xpu_backend": "ddp_backend",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}
"""Fields of older releases -> the field of 5.23 that takes the same value; given both, the older one fills a None."""

_OPTIMIZERS = (
    "adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor adamw_anyprecision adamw_torch_4bit"
    " adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit lion_32bit"
    " paged_adamw_32bit paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit"
    " rmsprop rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw galore_adafactor grokadamw"
    " schedule_free_radam schedule_free_adamw schedule_free_sgd apollo_adamw stable_adamw lomo adalomo"
    " galore_adamw_8bit galore_adamw_layerwise galore_adamw_8bit_layerwise galore_adafactor_layerwise"
    " apollo_adamw_layerwise"
)
OPTIMIZER_NAMES: tuple[str, ...] = tuple(_OPTIMIZERS.split())
"""OptimizerNames of 5.23."""

OPTIM_ARGS: dict[str, str] = {
    "sgd": "momentum dampening nesterov",
    "adagrad": "lr_decay eps",
    "rmsprop": "momentum alpha eps centered",
    "ademamix": "beta3 alpha t_alpha t_beta3",
    "adamw_anyprecision": "use_kahan_summation",
    "galore": "rank update_proj_gap scale proj_type",
    "apollo": "rank update_proj_gap scale proj_type proj scale_type",
    "grokadamw": "alpha_init lamb gamma gradient_clipping",
    "adamw_torch_4bit": "bf16_stochastic_round",
    "adamw_torch_8bit": "bf16_stochastic_round",
    "schedule_free": "weight_lr_power r",
    "stable_adamw": "max_lr kahan_sum decouple_lr",
}
"""Fields of ours that the Trainer reads from optim_args, by the (beginning or middle of the) optimizer's name there."""

WARMS_UP = ("schedule_free_adamw", "schedule_free_sgd")
"""Optimizers that the Trainer hands warmup_steps, to warm up by themselves; here the scheduler does."""

SCHEDULER_KWARGS = {"lr_end": "learning_rate_end"}
"""lr_scheduler_kwargs -> our fields, where the names differ."""

ENUMS: dict[str, str] = {
    "REDUCE_ON_PLATEAU": "reduce_lr_on_plateau",
    "ADAMW_BNB": "adamw_bnb_8bit",
    "LION": "lion_32bit",
    "PAGED_ADAMW": "paged_adamw_32bit",
    "PAGED_ADEMAMIX": "paged_ademamix_32bit",
    "PAGED_LION": "paged_lion_32bit",
    "RMSPROP_8BIT": "rmsprop_bnb_8bit",
    "RMSPROP_32BIT": "rmsprop_bnb_32bit",
}
"""Members of transformers' enums whose value is not their name in small letters."""

EQUIVALENT: dict[str, Any] = {
    "log_level": "info",
    "ddp_find_unused_parameters": False,
    "ddp_bucket_cap_mb": 25,
    "ddp_broadcast_buffers": True,
    "ddp_static_graph": False,
    "activation_checkpointing": False,
    "activation_checkpointing_kwargs": {},
    "liger_kernel_config": {},
    "torch_compile": None,
    "trackio_space_id": None,
}
"""Our value that stands for the Trainer's default where the two are written differently."""

COUNTERPARTS: dict[str, str] = {
    "train.nan_policy": "the Trainer goes on with nan",
    "evaluation.compute_metrics": "is an argument of the Trainer: Trainer(compute_metrics=)",
    "data.collate_fn": "is an argument of the Trainer: Trainer(data_collator=)",
    "data.predict_dataset": "is an argument of Trainer.predict",
    "checkpoint.save_safetensors": "is gone since transformers 5.0, which always writes safetensors",
    "logging.include_tokens_per_second": "is gone since transformers 5.0: include_num_input_tokens_seen does it too",
    "launch.nproc_per_node": "is torchrun's --nproc-per-node",
}
"""What export says about our fields that TrainingArguments does not have; the others simply have no counterpart."""

GROUP_FIELDS = {"optim": "optim", "lr_scheduler_kwargs": "scheduler", "parallelism_config": "parallel"}
"""Fields whose content is a whole group here."""

REMARKS: dict[str, str] = {
    "lr_scheduler_kwargs": "are fields of `scheduler` under their own names, as scheduler.num_cycles=0.5",
    "parallelism_config": "is the choice parallel=ddp|fsdp|mesh|zero1|zero2|zero3, its sizes fields of mesh",
    "accelerator_config": "its fields have homes of their own: train.gradient_accumulation_steps, data.*",
    "overwrite_output_dir": "runs never overwrite each other; checkpoint.resume_from_checkpoint=auto goes on with one",
    "local_rank": "the rank comes from the environment (torchrun, or launch.nproc_per_node)",
    "rank": "comes from the environment (torchrun, or launch.nproc_per_node); optim.rank is optim=galore_adamw's",
    "fp16_opt_level": "belonged to Apex; mixed precision is chosen by precision=bf16 or precision=fp16",
    "half_precision_backend": "belonged to Apex; mixed precision is chosen by precision=bf16 or precision=fp16",
    "jit_mode_eval": "was removed from transformers in 5.0 and has no equivalent here",
    "past_index": "was removed from transformers in 5.0 and has no equivalent here",
    "tpu_num_cores": "was removed from transformers in 5.0; TPUs are not supported here",
    "use_mps_device": "was removed from transformers in 5.0: a visible device is used unless run.use_cpu=true",
    "ray_scope": "was removed from transformers in 5.0; sweeps are `-m KEY=a,b`",
    "group_by_length": "is data.train_sampling_strategy=group_by_length",
    "scale_parameter": "is optim.scale_parameter of optim=adafactor, which the Trainer always has off",
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
    "fp16_backend": "belonged to Apex; mixed precision is chosen by precision=bf16 or precision=fp16",
    "use_ipex": "was removed from transformers in 5.0 and has no equivalent here",
    "use_legacy_prediction_loop": "was removed from transformers in 5.0 and has no equivalent here",
    "mp_parameters": "belongs to SageMaker's model parallelism, which has no equivalent here",
    "sharded_ddp": "belonged to fairscale; parallel=fsdp and parallel=zero1|zero2|zero3 shard",
    "dispatch_batches": "every rank reads its own batches",
    "split_batches": "train.per_device_train_batch_size is one device's, always",
    "_n_gpu": "one process drives one device: launch.nproc_per_node",
    "sortish_sampler": "is data.train_sampling_strategy=group_by_length",
    "predict_with_generate": "belongs to Seq2SeqTrainer, whose generation has no equivalent here",
    "generation_max_length": "belongs to Seq2SeqTrainer, whose generation has no equivalent here",
    "generation_num_beams": "belongs to Seq2SeqTrainer, whose generation has no equivalent here",
    "generation_config": "belongs to Seq2SeqTrainer, whose generation has no equivalent here",
    "lion": "is an optimizer: optim=lion_32bit or optim=lion_8bit",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What to tell someone who typed one of the names above."""

    suggestion: str | None = None
    what: str | None = None


def home(name: str) -> str | None:
    """The full key of a TrainingArguments name, or of an older or informal one."""
    return HOMES.get(name) or RENAMED.get(name)


def answer(name: str, value: Any) -> Answer | None:
    """The answer to ``name=value`` where ``name`` is not a key; None for a name that HF does not know."""
    from ..errors import show

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
