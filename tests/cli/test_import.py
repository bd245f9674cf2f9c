"""`import training-arguments`: 4.x and 5.x, JSON and scripts, become experiments that compose."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.cli import main
from trainer.interchange import experiment
from trainer.interchange.huggingface.incoming import translate
from trainer.interchange.huggingface.source import read
from trainer.schema import huggingface

Read = tuple[dict[str, Any], list[str]]


def imported(values: dict[str, Any]) -> Read:
    """The experiment's content, and what it says it cannot carry."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "arguments.json")
        file.write_text(json.dumps(values))
        found = translate(read(file).values)
    content = yaml.safe_load(experiment.to_yaml(found, "test"))
    choices = content.pop("defaults", [])
    return {**{k.split("/")[1]: v for entry in choices for k, v in entry.items()}, **_flat(content)}, found.remarks


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        whole = isinstance(value, dict) and not key.endswith("_kwargs") and key != "liger_kernel_config"
        flat |= _flat(value, f"{prefix}{key}.") if whole else {prefix + key: value}
    return flat


ZERO = {"zero_optimization": {"stage": 3, "overlap_comm": True, "zebra": 1}, "bf16": {"enabled": True}}
ACCELERATOR = {"split_batches": True, "even_batches": True, "gradient_accumulation_kwargs": {"num_steps": 4}}

CARRIED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"learning_rate": 1e-4}, {"optim.learning_rate": 1e-4}),
    ({"learning_rate": 5e-5, "num_train_epochs": 3, "seed": 42}, {}),
    ({"warmup_steps": 100}, {"scheduler.warmup_steps": 100}),
    ({"warmup_steps": 1.0}, {"scheduler.warmup_steps": 1}),
    ({"warmup_steps": 0.1}, {"scheduler.warmup_ratio": 0.1}),
    ({"warmup_ratio": 0.06}, {"scheduler.warmup_ratio": 0.06}),
    ({"warmup_ratio": 0.06, "warmup_steps": 50}, {"scheduler.warmup_steps": 50}),
    ({"evaluation_strategy": "epoch"}, {"evaluation.eval_strategy": "epoch"}),
    ({"eval_strategy": "IntervalStrategy.STEPS", "eval_steps": None}, {"evaluation.eval_strategy": "steps"}),
    ({"eval_steps": 0.1}, {"evaluation.eval_steps": 0.1}),
    ({"save_steps": 200.0}, {"checkpoint.save_steps": 200}),
    ({"no_cuda": True}, {"run.use_cpu": True}),
    ({"per_gpu_train_batch_size": 4, "per_device_train_batch_size": 8}, {"train.per_device_train_batch_size": 4}),
    ({"per_gpu_eval_batch_size": None, "per_device_eval_batch_size": 2}, {"evaluation.per_device_eval_batch_size": 2}),
    ({"gradient_checkpointing": True}, {"memory.activation_checkpointing": True}),
    (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
        {"memory.activation_checkpointing": True, "memory.activation_checkpointing_kwargs": {"use_reentrant": True}},
    ),
    ({"group_by_length": True}, {"data.train_sampling_strategy": "group_by_length"}),
    ({"torchdynamo": "eager"}, {"compile.torch_compile_backend": "eager"}),
    ({"include_inputs_for_metrics": True}, {"evaluation.include_for_metrics": ["inputs"]}),
    ({"include_num_input_tokens_seen": True}, {"logging.include_num_input_tokens_seen": "all"}),
    ({"include_tokens_per_second": True}, {"logging.include_tokens_per_second": True}),
    ({"save_safetensors": False}, {"checkpoint.save_safetensors": False}),
    ({"debug": ["underflow_overflow"]}, {"run.debug": "underflow_overflow"}),
    ({"max_grad_norm": None}, {"train.max_grad_norm": 0.0}),
    ({"max_steps": -2}, {}),
    ({"save_total_limit": 0, "neftune_noise_alpha": 0}, {}),
    ({"resume_from_checkpoint": True}, {"checkpoint.resume_from_checkpoint": "auto"}),
    ({"bf16": True}, {"precision": "bf16"}),
    ({"fp16": True, "tf32": True}, {"precision": "fp16", "precision.tf32": True}),
    ({"tf32": True, "bf16_full_eval": True}, {"precision": "tf32", "precision.bf16_full_eval": True}),
    ({"tf32": False}, {"precision.tf32": False}),
    ({"optim": "adamw_torch"}, {"optim": "adamw"}),
    ({"optim": "OptimizerNames.PAGED_ADAMW"}, {"optim": "paged_adamw_32bit"}),
    ({"optim": "adamw_bnb_8bit"}, {"optim": "adamw_8bit"}),
    ({"adafactor": True}, {"optim": "adafactor"}),
    ({"optim": "sgd", "optim_args": "momentum=0.9"}, {"optim": "sgd", "optim.optim_args": "momentum=0.9"}),
    ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {}}, {"scheduler": "cosine"}),
    (
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1e-6, "power": 2.0}},
        {"scheduler": "polynomial", "scheduler.learning_rate_end": 1e-6, "scheduler.power": 2.0},
    ),
    (
        {"lr_scheduler_type": "SchedulerType.REDUCE_ON_PLATEAU", "lr_scheduler_kwargs": {"mode": "min", "factor": 0.5}},
        {"scheduler": "reduce_lr_on_plateau", "scheduler.factor": 0.5},
    ),
    (
        {
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": 5, "decay_type": "1-sqrt"},
        },
        {
            "scheduler": "warmup_stable_decay",
            "scheduler.num_decay_steps": 5,
            "scheduler.decay_type": "one_minus_sqrt",
        },
    ),
    (
        {"optim": "schedule_free_sgd", "lr_scheduler_type": "constant", "warmup_steps": 9},
        {"optim": "schedule_free_sgd", "scheduler": "constant_with_warmup", "scheduler.warmup_steps": 9},
    ),
    ({"report_to": "none"}, {}),
    ({"report_to": "wandb"}, {"logging": ["console", "wandb"]}),
    (
        {"report_to": ["tensorboard"], "logging_dir": "tb"},
        {"logging": ["console", "tensorboard"], "logging.reporters.tensorboard.log_dir": "tb"},
    ),
    ({"fsdp": True}, {"parallel": "fsdp"}),
    ({"fsdp": "shard_grad_op auto_wrap"}, {"parallel": "fsdp", "parallel.reshard_after_forward": False}),
    (
        {"fsdp": ["full_shard"], "fsdp_config": {"fsdp_transformer_layer_cls_to_wrap": "Block", "xla": False}},
        {"parallel": "fsdp", "parallel.transformer_layer_cls_to_wrap": ["Block"]},
    ),
    ({"fsdp": "", "fsdp_config": {"min_num_params": 0, "xla": False, "xla_fsdp_grad_ckpt": False}}, {}),
    ({"fsdp": "no_shard"}, {}),
    ({"fsdp": "hybrid_shard auto_wrap"}, {"parallel": "fsdp_hybrid"}),
    (
        {"fsdp": "full_shard offload", "fsdp_min_num_params": 2000},
        {
            "parallel": "fsdp",
            "parallel.cpu_offload": True,
            "parallel.auto_wrap_policy": "SIZE_BASED_WRAP",
            "parallel.min_num_params": 2000,
        },
    ),
    (
        {"deepspeed": {"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}},
        {"parallel": "zero3", "parallel.offload_optimizer": "cpu"},
    ),
    ({"parallelism_config": {"tp_size": 2}}, {"parallel": "mesh", "parallel.tp_size": 2}),
    ({"parallelism_config": {"cp_size": 2, "tp_size": 1}}, {"parallel": "mesh", "parallel.cp_size": 2}),
    ({"deepspeed": {"zero_optimization": {"stage": 2}, "train_batch_size": "auto"}}, {"parallel": "zero2"}),
    ({"ddp_find_unused_parameters": None, "ddp_bucket_cap_mb": 10}, {"parallel.ddp_bucket_cap_mb": 10}),
    ({"ddp_backend": "gloo"}, {"parallel.ddp_backend": "gloo"}),
    (
        {"early_stopping_patience": 3},
        {"callbacks": ["early_stopping"], "callbacks.early_stopping.early_stopping_patience": 3},
    ),
    ({"do_train": True, "do_eval": True}, {"run.do_eval": True}),
    ({"do_predict": True, "do_train": False}, {"run.do_train": False, "run.do_predict": True}),
    ({"project": "huggingface"}, {"run.project": "huggingface"}),
    ({"push_to_hub": True, "push_to_hub_model_id": "a/b"}, {"hub.push_to_hub": True, "hub.hub_model_id": "a/b"}),
    ({"log_level": "passive", "disable_tqdm": True}, {"logging.disable_tqdm": True}),
]


@pytest.mark.parametrize(("values", "content"), CARRIED, ids=[str(list(v))[:60] for v, _ in CARRIED])
def test_carried(values: dict[str, Any], content: dict[str, Any]) -> None:
    assert imported(values) == (content, [])


REMARKED: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"tpu_num_cores": 8}, {}, ["tpu_num_cores=8: was removed"]),
    ({"overwrite_output_dir": True}, {}, ["overwrite_output_dir=true: runs never overwrite"]),
    ({"overwrite_output_dir": False, "past_index": -1, "jit_mode_eval": False, "local_rank": 0}, {}, []),
    ({"learning_rat": 1}, {}, ["learning_rat=1: is not a name"]),
    ({"optim": "adamw_9bit"}, {}, ["optim=adamw_9bit: is not among optim's options"]),
    ({"optim": "lomo", "max_grad_norm": 0.5}, {"optim": "lomo"}, ["max_grad_norm=0.5: is without effect with lomo"]),
    ({"optim": "apollo_adamw_layerwise", "max_grad_norm": 1.0}, {"optim": "apollo_adamw_layerwise"}, []),
    ({"optim": "sgd", "adam_beta1": 0.8}, {"optim": "sgd"}, ["adam_beta1=0.8: is not used by sgd"]),
    (
        {"lr_scheduler_type": "constant", "warmup_steps": 5},
        {"scheduler": "constant"},
        ["warmup_steps=5: is not used"],
    ),
    (
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"min_lr": 1}},
        {"scheduler": "cosine"},
        ["lr_scheduler_kwargs.min_lr=1:"],
    ),
    ({"hub_token": "hf_secret"}, {}, ["hub_token: a secret belongs in no file"]),
    ({"report_to": ["dagshub", "wandb"]}, {"logging": ["console", "wandb"]}, ["report_to=dagshub: is not among"]),
    ({"logging_dir": "tb"}, {}, ["logging_dir=tb: is read by tensorboard alone"]),
    ({"train_sampling_strategy": "batch_rebalance"}, {"data.train_sampling_strategy": "batch_rebalance"}, []),
    ({"log_level_replica": "passive"}, {}, ["log_level_replica=passive: is not offered"]),
    ({"ddp_backend": "hccl"}, {}, ["ddp_backend=hccl: is not offered"]),
    ({"do_train": False}, {}, ["do_train=false: the Trainer never reads it"]),
    ({"max_steps": 0}, {"train.max_steps": 1}, ["max_steps=0: the Trainer does one step"]),
    ({"torch_compile": True}, {"compile.torch_compile": True}, ["torch_compile=true: the Trainer turns TF32 on"]),
    (
        {"predict_with_generate": True, "generation_max_length": 5},
        {},
        ["predict_with_generate", "generation_max_length"],
    ),
    (
        {"accelerator_config": ACCELERATOR},
        {"train.gradient_accumulation_steps": 4},
        ["accelerator_config.split_batches"],
    ),
    (
        {"deepspeed": ZERO},
        {
            "parallel": "deepspeed",
            "precision": "bf16",
            "parallel.config.zero_optimization.stage": 3,
            "parallel.config.zero_optimization.overlap_comm": True,
            "parallel.config.zero_optimization.zebra": 1,
            "parallel.config.bf16.enabled": True,
        },
        [],
    ),
    (
        {"fsdp_config": {"reshard_after_forward": True}},
        {},
        ["fsdp_config={reshard_after_forward:true}: the Trainer ignores"],
    ),
    (
        {"fsdp": True, "fsdp_config": {"version": 1, "forward_prefetch": True}},
        {"parallel": "fsdp"},
        ["fsdp_config.version=1", "fsdp_config.forward_prefetch"],
    ),
    ({"deepspeed": "missing.json"}, {}, ["deepspeed=missing.json: is neither JSON nor"]),
    (
        {"fp16_opt_level": "O2", "half_precision_backend": "apex"},
        {},
        ["fp16_opt_level=O2", "half_precision_backend=apex"],
    ),
]


@pytest.mark.parametrize(("values", "content", "starts"), REMARKED, ids=[str(list(v))[:60] for v, _, _ in REMARKED])
def test_remarked(values: dict[str, Any], content: dict[str, Any], starts: list[str]) -> None:
    found, remarks = imported(values)
    assert found == content
    assert len(remarks) == len(starts)
    for remark, start in zip(sorted(remarks), sorted(starts), strict=True):
        assert remark.startswith(start)


@pytest.mark.parametrize("name", [n for n in huggingface.DEFAULTS if n not in ("optim", "lr_scheduler_type")])
def test_a_default_of_the_trainer_says_nothing_that_cannot_be_carried(name: str) -> None:
    value = huggingface.DEFAULTS[name]
    remarks = translate({name: value}).remarks
    assert not remarks or name == "do_train"


def test_a_dump_says_no_more_than_what_was_set(tmp_path: Path) -> None:
    """to_json_string() writes every default, resolved; only what was chosen comes over."""
    pytest.importorskip("transformers")
    code = (
        "from transformers import TrainingArguments; import sys\n"
        "print(TrainingArguments(learning_rate=1e-4, eval_strategy='steps', use_cpu=True, hub_token='hf_secret',"
        " warmup_steps=0.1, load_best_model_at_end=True).to_json_string())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200, cwd=tmp_path
    )
    dump = json.loads(run.stdout)
    assert len(dump) > 100
    found, remarks = imported(dump)
    assert not remarks
    assert found == {
        "optim.learning_rate": 1e-4,
        "scheduler.warmup_ratio": 0.1,
        "run.use_cpu": True,
        "data.dataloader_pin_memory": False,  # what __post_init__ makes of use_cpu
        "run.project": "huggingface",
        "evaluation.eval_strategy": "steps",
        "evaluation.eval_steps": 500,
        "checkpoint.load_best_model_at_end": True,
        "checkpoint.metric_for_best_model": "loss",
        "checkpoint.greater_is_better": False,
        "checkpoint.enable_jit_checkpoint": False,
        "checkpoint.restore_callback_states_from_checkpoint": False,
    }


OLD_DUMP = {
    "output_dir": "out", "overwrite_output_dir": False, "do_train": False, "do_eval": True, "do_predict": False,
    "evaluation_strategy": "epoch", "prediction_loss_only": False, "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 8, "per_gpu_train_batch_size": None, "per_gpu_eval_batch_size": None,
    "learning_rate": 2e-5, "weight_decay": 0.01, "lr_scheduler_kwargs": {}, "warmup_ratio": 0.0, "warmup_steps": 0,
    "log_level": "passive", "logging_dir": "out/runs/May01_10-00-00_host", "save_safetensors": True, "no_cuda": False,
    "use_cpu": False, "use_mps_device": False, "jit_mode_eval": False, "use_ipex": False, "fp16_opt_level": "O1",
    "fp16_backend": "auto", "half_precision_backend": "auto", "tf32": None, "local_rank": 0, "ddp_backend": None,
    "tpu_num_cores": None, "tpu_metrics_debug": False, "debug": [], "past_index": -1, "run_name": "out", "fsdp": [],
    "disable_tqdm": False, "fsdp_min_num_params": 0, "fsdp_transformer_layer_cls_to_wrap": None, "deepspeed": None,
    "fsdp_config": {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False},
    "accelerator_config": {
        "split_batches": False, "dispatch_batches": None, "even_batches": True, "use_seedable_sampler": True,
        "non_blocking": False, "gradient_accumulation_kwargs": None,
    },
    "optim": "adamw_torch", "optim_args": None, "adafactor": False, "group_by_length": False,
    "report_to": ["tensorboard"], "hub_token": "<HUB_TOKEN>", "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": None, "include_inputs_for_metrics": False, "push_to_hub_model_id": None,
    "push_to_hub_organization": None, "push_to_hub_token": "<PUSH_TO_HUB_TOKEN>", "mp_parameters": "",
    "auto_find_batch_size": False, "torchdynamo": None, "ray_scope": "last", "ddp_timeout": 1800,
    "dispatch_batches": None, "split_batches": None, "include_tokens_per_second": False, "hub_always_push": False,
    "include_num_input_tokens_seen": False, "neftune_noise_alpha": None, "eval_do_concat_batches": True, "_n_gpu": 1,
    "ddp_find_unused_parameters": None, "ddp_bucket_cap_mb": None, "ddp_broadcast_buffers": None,
}  # fmt: skip


def test_a_dump_of_an_older_release() -> None:
    assert imported(OLD_DUMP) == (
        {
            "optim": "adamw",
            "logging": ["console", "tensorboard"],
            "run.output_dir": "out",
            "train.per_device_train_batch_size": 16,
            "optim.learning_rate": 2e-5,
            "optim.weight_decay": 0.01,
            "evaluation.eval_strategy": "epoch",
        },
        [],
    )


SCRIPT = """
import os
from transformers import IntervalStrategy, Seq2SeqTrainingArguments, TrainingArguments
raise SystemExit("a script is read, not run")
args = TrainingArguments(
    "out", learning_rate=2e-5, eval_strategy=IntervalStrategy.EPOCH, seed=int(os.environ["SEED"]),
    label_names=("a", "b"), optim="adamw_torch", **{"weight_decay": 0.01}, **more,
)
"""


def run(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    code = main(["import", "training-arguments", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def test_a_script_is_read_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train_it.py"
    file.write_text(SCRIPT)
    code, out, said = run(str(file), capsys=capsys)
    assert code == 0
    assert out.startswith("# @package _global_\n")
    assert yaml.safe_load(out) == {
        "defaults": [{"override /optim": "adamw"}],
        "run": {"output_dir": "out"},
        "optim": {"learning_rate": 2e-5, "weight_decay": 0.01},
        "evaluation": {"eval_strategy": "epoch"},
        "data": {"label_names": ["a", "b"]},
    }
    assert len(said) == 2
    assert "seed=int(os.environ['SEED'])" in said[0]
    assert f"{file}:6): is not a literal" in said[0]
    assert "**=more" in said[1]


def test_a_deepspeed_file_goes_over_whole(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 4, "bf16": {"enabled": true}}')
    assert imported({"deepspeed": str(file)}) == (
        {
            "parallel": "deepspeed",
            "parallel.config": str(file),
            "precision": "bf16",
            "train.gradient_accumulation_steps": 4,
        },
        [],
    )


def test_one_of_several_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "two.py"
    file.write_text("a = TrainingArguments(seed=1)\nb = transformers.Seq2SeqTrainingArguments(seed=2)\n")
    code, out, said = run(str(file), capsys=capsys)
    assert (code, out) == (2, "")
    assert "calls TrainingArguments at lines 1, 2; fix: --line 1" in said[0]
    code, out, said = run(str(file), "--line", "2", capsys=capsys)
    assert (code, yaml.safe_load(out), said) == (0, {"run": {"seed": 2}}, [])


def test_a_file_is_written_and_never_overwritten_silently(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "a.json", tmp_path / "conf" / "experiment" / "mine.yaml"
    file.write_text('{"learning_rate": 1e-4}')
    assert run(str(file), "-o", str(output), capsys=capsys)[:2] == (0, "")
    assert yaml.safe_load(output.read_text()) == {"optim": {"learning_rate": 1e-4}}
    file.write_text('{"learning_rate": 2e-4}')
    code, _, said = run(str(file), "-o", str(output), capsys=capsys)
    assert code == 2
    assert "is there already; --overwrite replaces it" in said[0]
    assert yaml.safe_load(output.read_text()) == {"optim": {"learning_rate": 1e-4}}
    assert run(str(file), "-o", str(output), "--overwrite", capsys=capsys)[0] == 0
    assert yaml.safe_load(output.read_text()) == {"optim": {"learning_rate": 2e-4}}
    assert [p.name for p in output.parent.iterdir()] == ["mine.yaml"]


def test_contradictions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"load_best_model_at_end": true, "max_grad_norm": -1}')
    code, _, said = run(str(file), "-o", str(tmp_path / "x.yaml"), capsys=capsys)
    assert code == 2
    text = "\n".join(said)
    assert f"train.max_grad_norm=-1.0 ({tmp_path}/x.yaml:" in text
    assert "checkpoint.load_best_model_at_end=true" in text
    assert "imported-" not in text


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[1]", "does not hold a JSON object"),
        ("training_args.bin", b"PK\x03\x04\xff\xfe", "is a pickle, which is not opened"),
        ("a.py", b"def (", "is not Python"),
        ("a.py", b"x = 1", "calls none of TrainingArguments"),
        ("a.json", None, "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_read(
    name: str, content: bytes | None, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, said = run(str(tmp_path / name), capsys=capsys)
    assert (code, out, len(said)) == (2, "", 1)
    assert what in said[0]
