"""`export training-arguments`: JSON that transformers takes, and that comes back as the config it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.arguments import back, comparable, exported, random_config
from trainer.cli import main
from trainer.config.composer import compose
from trainer.schema import huggingface

CONFIGS = {
    "the default": [],
    "nothing but defaults": ["experiment=null"],
    "an optimizer's own arguments": ["optim=sgd", "optim.momentum=0.9", "optim.nesterov=true"],
    "optim_args": ["optim=rmsprop", "optim.optim_args='momentum=0.5,centered=true'"],
    "8 bits": ["optim=paged_adamw_8bit", "optim.adam_beta2=0.95"],
    "galore": ["optim=galore_adamw", "optim.rank=64", "optim.optim_target_modules=[attn,mlp]"],
    "inside backward": ["optim=apollo_adamw_layerwise", "optim.rank=64"],
    "adalomo": ["optim=adalomo", "optim.learning_rate=1e-3"],
    "schedule-free": [
        "optim=schedule_free_adamw",
        "scheduler=constant_with_warmup",
        "scheduler.warmup_steps=7",
        "optim.r=1.0",
    ],
    "a share of warmup": ["scheduler=cosine", "scheduler.warmup_ratio=0.06", "scheduler.num_cycles=1.5"],
    "an end of its own": ["scheduler=polynomial", "scheduler.learning_rate_end=1e-6", "scheduler.power=2"],
    "a plateau": ["scheduler=reduce_lr_on_plateau", "scheduler.factor=0.5", "checkpoint.greater_is_better=true"],
    "a decay": ["scheduler=warmup_stable_decay", "scheduler.num_decay_steps=9", "scheduler.decay_type=one_minus_sqrt"],
    "two formats": ["precision=bf16", "precision.tf32=true", "precision.bf16_full_eval=true"],
    "fsdp": ["parallel=fsdp", "parallel.reshard_after_forward=false", "parallel.transformer_layer_cls_to_wrap=[Block]"],
    "zero": ["parallel=zero3", "precision=bf16", "parallel.overlap_comm=true"],
    "offload": [
        "parallel=zero3",
        "parallel.offload_optimizer=cpu",
        "parallel.offload_param=nvme",
        "parallel.nvme_path=/x",
    ],
    "a DeepSpeed JSON": ["parallel=deepspeed", "parallel.config={zero_optimization:{stage:3,sub_group_size:1000}}"],
    "wrapping": ["parallel=fsdp", "parallel.auto_wrap_policy=SIZE_BASED_WRAP", "parallel.min_num_params=1000"],
    "greedy": ["scheduler=greedy", "scheduler.min_lr=1e-6", "checkpoint.metric_for_best_model=perplexity"],
    "ddp": ["parallel.ddp_static_graph=true", "parallel.ddp_bucket_cap_mb=50", "parallel.ddp_timeout=60"],
    "trackers": ["logging=[console,tensorboard,wandb]", "run.project=x", "run.run_name=y"],
    "where Hugging Face's default is another": [
        "run.project=huggingface",
        "checkpoint.enable_jit_checkpoint=false",
        "checkpoint.restore_callback_states_from_checkpoint=false",
    ],
    "evaluation alone": ["run.do_train=false", "run.do_eval=true"],
    "an evaluation at the end as well": ["run.do_eval=true"],
    "a directory": ["run.output_dir=outputs/mine", "checkpoint.resume_from_checkpoint=auto"],
}


@pytest.mark.parametrize("overrides", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("every", [False, True], ids=["differences", "all"])
def test_there_and_back(overrides: list[str], every: bool, tmp_path: Path) -> None:
    here = compose(overrides)
    there = exported(here)
    again, found = back(there.all() if every else there.values, tmp_path)
    assert comparable(again) == comparable(here)
    assert not found.remarks
    assert {(p.key, p.what) for p in again.problems} == {(p.key, p.what) for p in here.problems}  # missing packages


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_configs_come_back(seed: int, tmp_path: Path) -> None:
    here = random_config(seed)
    there = exported(here)
    again, found = back(there.values, tmp_path)
    assert not again.problems
    assert comparable(again) == comparable(here)
    assert not [r for r in found.remarks if not r.startswith("torch_compile")]
    assert set(there.remarks) <= {"model, task and datasets: are arguments of the Trainer itself"} | {
        r for r in there.remarks if "which" in r and "does not use" in r
    }


CONSTRUCT = """
import enum, json, sys
from transformers import TrainingArguments
for values in json.load(open(sys.argv[1])):
    args = TrainingArguments(**values)
    for name, value in values.items():
        got = getattr(args, name)
        got = got.value if isinstance(got, enum.Enum) else got
        if name == "debug":
            got = " ".join(word.value for word in got)
        if name in ("fsdp_config",):
            got = {key: got.get(key) for key in value}
        assert got == value, (name, value, got)
print("all equal")
"""


@pytest.mark.slow
def test_transformers_takes_the_json(tmp_path: Path) -> None:
    """Every value is found again in a real TrainingArguments."""
    pytest.importorskip("transformers")
    skipped = ("two formats", "zero", "offload", "a DeepSpeed JSON")
    on_a_cpu = [overrides for name, overrides in CONFIGS.items() if name not in skipped]
    compositions = [compose([*overrides, "run.use_cpu=true"]) for overrides in on_a_cpu]
    values = [exported(c).values for c in compositions if c.config]
    for seed in range(100, 112):
        one = exported(random_config(seed)).values
        for name in ("ddp_backend", "deepspeed", "tf32", "bf16", "bf16_full_eval"):  # want a process group, or a GPU
            one.pop(name, None)
        values.append(one)
    for one in values:
        one["output_dir"] = str(tmp_path / "out")
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    run = subprocess.run(
        [sys.executable, "-c", CONSTRUCT, file], capture_output=True, text=True, timeout=250, cwd=tmp_path, check=False
    )
    assert run.stdout == "all equal\n", run.stderr[-2000:]


def test_what_has_no_counterpart_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["train.nan_policy=skip", "logging=[console,csv]", "callbacks=early_stopping", "parallel=single"]
    overrides += ["optim=muon", "logging.reporter_timeout=5", "hub.hub_token=hf_secret", "optim.momentum=0.5"]
    assert main(["export", "training-arguments", *overrides]) == 0
    captured = capsys.readouterr()
    assert "hf_secret" not in captured.out + captured.err
    said = captured.err.splitlines()
    for start in (
        "train.nan_policy=skip:",
        "logging=csv:",
        "callbacks.early_stopping: pass Trainer(callbacks=[EarlyStoppingCallback(early_stopping_patience=1,",
        "parallel=single:",
        "optim=Muon:",
        "logging.reporter_timeout=5.0:",
        "hub.hub_token: a secret",
        "optim.momentum=0.5:",
        "model, task and datasets:",
    ):
        assert any(line.startswith(f"not exported: {start}") for line in said), (start, said)
    assert json.loads(captured.out)["learning_rate"] == 0.0015


def test_only_differences_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "training-arguments", "experiment=null", "optim.learning_rate=1e-4"]) == 0
    few = json.loads(capsys.readouterr().out)
    ours = {"project": "trainer", "do_train": True, "enable_jit_checkpoint": True}
    assert few == {**ours, "restore_callback_states_from_checkpoint": True, "learning_rate": 1e-4}
    assert main(["export", "training-arguments", "--all", "experiment=null"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(huggingface.DEFAULTS)


def test_a_wrong_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "training-arguments", "learning_rate=1"]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "did you mean optim.learning_rate=1" in captured.err


def test_neither_command_imports_torch(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"learning_rate": 1e-4}')
    for command in (["export", "training-arguments"], ["import", "training-arguments", str(tmp_path / "a.json")]):
        code = "import sys; from trainer.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
        subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, timeout=100)
