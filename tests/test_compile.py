"""compile: the model that is trained is the compiled one, with the same names, and the same bits on a plain backend."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests import jobs
from tests.jobs import make_config
from tests.tiny import Blocks
from tests.train.test_resume import KILLED, assert_same, killed_at
from trainer.callbacks.callback import Callback
from trainer.compile import compile_model
from trainer.schema.compile import Compile
from trainer.schema.parallel import DDP, FSDP
from trainer.schema.train import Train
from trainer.state import Control, State


class Compiles(Callback):
    """Fails the run at its end unless torch.compile made something."""

    def on_train_end(self, state: State, control: Control) -> None:
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


CALLBACK: dict[str, Any] = {"compiles": {"_target_": "tests.test_compile.Compiles"}}


def test_backend_and_mode_ask_for_it() -> None:
    assert not Compile().is_enabled()
    assert Compile(torch_compile=True).is_enabled()
    assert Compile(torch_compile_backend="eager").is_enabled()
    assert Compile(torch_compile_mode="max-autotune").is_enabled()
    assert not Compile(torch_compile=False).is_enabled()


def test_the_model_is_compiled_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = CompileCounter()
    given: dict[str, Any] = {}
    compile_ = torch.compile

    def spy(model: Any, **options: Any) -> Any:
        given.update(options)
        return compile_(model, backend=counter)

    monkeypatch.setattr(torch, "compile", spy)
    model = Blocks()
    names = list(model.state_dict())
    compile_model(model, Compile(torch_compile_backend="inductor", torch_compile_mode="max-autotune"))
    model(torch.randn(2, 97))
    assert counter.frame_count == 1
    assert given == {"backend": "inductor", "mode": "max-autotune"}
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("parallel", "ranks"), [(None, 1), (DDP, 2), (FSDP, 2)])
def test_a_compiled_run_is_the_same_run(tmp_path: Path, parallel: Any, ranks: int) -> None:
    sections: dict[str, Any] = {"train": Train(per_device_train_batch_size=4, max_steps=5)}
    sections |= {"parallel": parallel()} if parallel else {}
    plain, compiled = make_config(**sections), make_config(compile=Compile(torch_compile_backend="eager"), **sections)
    compiled.callbacks = CALLBACK
    assert jobs.train(plain, tmp_path / "plain", world_size=ranks) == [0] * ranks
    assert jobs.train(compiled, tmp_path / "run", world_size=ranks) == [0] * ranks
    assert_same(tmp_path / "run", tmp_path / "plain")


def test_a_compiled_run_resumes_to_the_bit(tmp_path: Path) -> None:
    def config(**callbacks: Any) -> Any:
        return make_config(compile=Compile(torch_compile=True, torch_compile_backend="aot_eager"), callbacks=callbacks)

    assert jobs.train(config(), tmp_path / "whole") == [0]
    assert jobs.train(config(**killed_at(8)), tmp_path / "run") == KILLED
    assert jobs.train(config(), tmp_path / "run", resume="auto") == [0]
    assert_same(tmp_path / "run", tmp_path / "whole")


INTERPRETED = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trainer.compile import compile_model
from trainer.schema.compile import Compile

sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
ids = torch.randint(0, 61, (2, 16), generator=torch.Generator().manual_seed(1))
for kernel in ("rope", "cross_entropy", "fused_linear_cross_entropy"):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    results = []
    for use in (False, True):
        if use:
            others = ("rope", "swiglu", "rms_norm", "cross_entropy", "fused_linear_cross_entropy")
            compile_model(model, Compile(use_liger_kernel=True, liger_kernel_config={k: k == kernel for k in others}))
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for plain, liger in zip(*results):
        torch.testing.assert_close(liger, plain, rtol=1e-5, atol=1e-7)
print("agree")
"""


@pytest.mark.slow
def test_liger_kernels_give_the_models_own_numbers() -> None:
    """The real package in triton's interpreter, which cannot do its rms_norm and swiglu. pip install liger-kernel."""
    pytest.importorskip("liger_kernel")
    pytest.importorskip("transformers")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.stdout.strip().endswith("agree"), done.stderr


class Known(nn.Linear):
    config = SimpleNamespace(model_type="llama")


def test_liger_kernel_gets_the_model_and_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package needs triton, which a CPU's torch comes without; its two modules stand here with what we use."""
    calls: list[Any] = []
    package, patch = ModuleType("liger_kernel.transformers"), ModuleType("liger_kernel.transformers.monkey_patch")
    package._apply_liger_kernel_to_instance = lambda **options: calls.append(options)  # type: ignore[attr-defined]
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}  # type: ignore[attr-defined]
    for module in (ModuleType("liger_kernel"), package, patch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    model = Known(2, 2)
    compile_model(model, Compile(use_liger_kernel=True, liger_kernel_config={"rope": False}))
    assert calls == [{"model": model, "rope": False}]
    with pytest.raises(ValueError, match="liger-kernel does not know Linear, only transformers models of type llama"):
        compile_model(nn.Linear(2, 2), Compile(use_liger_kernel=True))
