"""What a config may name, and whether it can be called with what the config gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from trainer.build.build import build, load
from trainer.build.calls import check_calls
from trainer.build.policy import locate, refusal
from trainer.config.composer import Composition

Compose = Callable[..., Composition]


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "subprocess.Popen",
        "builtins.eval",
        "builtins.exec",
        "builtins.open",
        "builtins.__import__",
        "io.open",
        "pathlib.Path.unlink",
        "shutil.rmtree",
        "pickle.loads",
        "importlib.import_module",
        "runpy.run_path",
        "ctypes.CDLL",
        "functools.reduce",
        "operator.attrgetter",
        "types.FunctionType",
        "logging.config.dictConfig",
        "hydra.utils.instantiate",
        "hydra.utils.call",
        "omegaconf.OmegaConf.load",
        "yaml.unsafe_load",
        "joblib.load",
        "cloudpickle.loads",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.save",
        "torch.package.PackageImporter",
        "torch.ops.load_library",
        "torch.classes.load_library",
        "torch.utils.cpp_extension.load_inline",
        "torch.serialization.load",
        "torch._C._cuda_init",
        "torch.nn.Module.__init__",
        "numpy.load",
        "numpy.memmap",
        "numpy.fromfile",
        "pandas.read_pickle",
        "trainer.build.build.build",
        "trainer.build.policy.locate",
        "trainer.launch.start.run",
        "trainer.run.directory.create",
        "Linear",
        "torch..nn",
        "torch.nn.",
        "../net.Net",
        "",
    ],
)
def test_refused(name: str) -> None:
    assert refusal(name)
    with pytest.raises(ValueError, match=r"."):
        locate(name)


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.Linear",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "torch.relu",
        "torch.nn.functional.gelu",
        "torch.utils.data.TensorDataset",
        "torchmetrics.classification.MulticlassAccuracy",
        "torch.tensor",
        "torch.randn",
        "numpy.arange",
        "collections.OrderedDict",
        "trainer.model.mlp.MLP",
    ],
)
def test_allowed(name: str) -> None:
    assert refusal(name) is None
    assert callable(locate(name))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A user's module `mine` in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import os, functools, pathlib\n"
        "from os import system as harmless\n"
        "from torch import nn\n"
        "run = functools.partial(os.system, 'touch pwned')\n"
        "remove = pathlib.Path('pwned').unlink\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, width, depth=2, *, act=None):\n"
        "        super().__init__()\n"
        "        self.width, self.act = width, act\n"
        "def items(batch):\n"
        "    return batch\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit('no')\n")
    yield SimpleNamespace(path=tmp_path)
    for name in ("mine", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name", ["mine.os.system", "mine.harmless", "mine.run", "mine.remove", "mine.functools.reduce", "mine.os"]
)
def test_a_harmless_path_to_a_refused_object(module: SimpleNamespace, name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        locate(name)
    with pytest.raises(ValueError, match=r"."):
        build({"_target_": name, "command": "touch pwned"})
    with pytest.raises(ValueError, match=r"."):
        load(name)
    assert not (module.path / "pwned").exists()


def test_nested_targets_pass_the_same_policy(module: SimpleNamespace, compose: Compose) -> None:
    node = {"_target_": "mine.Net", "width": 1, "act": [{"a": {"_target_": "os.system", "command": "touch pwned"}}]}
    with pytest.raises(ValueError, match=r"os\.system"):
        build(node)
    composition = compose("model._target_=mine.Net", "model.width=1", "model.act.x=[{_target_:os.system,command:ls}]")
    assert [str(p) for p in composition.problems] == [
        "model.act.x.0._target_=os.system (command line): may not be named in a config: os can run any code"
    ]
    metrics = compose("task=classification", "task.metrics.a._target_=builtins.eval")
    assert "may not be named" in str(metrics.problems[0])


def test_build(module: SimpleNamespace) -> None:
    net = build({"_target_": "mine.Net", "width": 1, "act": {"_target_": "torch.nn.ReLU"}})
    assert net.width == 1
    assert isinstance(net.act, nn.ReLU)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model._target_=mine.Net", "model.width=3"], None),
        (
            ["model._target_=mine.Net"],
            "model._target_=mine.Net (command line): needs the argument width; fix: model.width=VALUE",
        ),
        (
            ["model._target_=mine.Net", "model.width=1", "model.depht=2"],
            "takes no argument depht; did you mean model.depth",
        ),
        (["model._target_=mine.Nett", "model.width=1"], "did you mean mine.Net"),
        (["model._target_=broken.Net"], "cannot be imported: SystemExit: no"),
        (["model._target_=nowhere.Net"], "there is no package nowhere here"),
        (
            ["model._target_=mine.Net", "model.width=1", "model.act._target_=torch.nn.ReLu"],
            "did you mean torch.nn.ReLU",
        ),
        (["data.collate_fn=mine.items"], None),
        (["data.collate_fn=mine.item"], "did you mean mine.items"),
        (["data.collate_fn=os.system"], "may not be named"),
        (["optim._target_=torch.optim.Adam", "optim.amsgrad=true"], None),
        (["optim._target_=torch.optim.Adam", "optim.amsgrat=true"], "did you mean optim.amsgrad"),
        (["scheduler._target_=torch.optim.lr_scheduler.StepLR", "scheduler.step_size=2"], None),
        (["scheduler._target_=torch.optim.lr_scheduler.StepLR"], "needs the argument step_size"),
        (["task=classification", "task.metrics.a._target_=torchmetrics.classification.MulticlassAccuracy"], None),
        (["callbacks.es._target_=trainer.callbacks.early_stopping.EarlyStopping"], "choose callbacks=early_stopping"),
    ],
)
def test_calls(module: SimpleNamespace, compose: Compose, overrides: list[str], expected: str | None) -> None:
    composition = compose(*overrides)
    assert composition.config
    problems = composition.problems or composition.origins.fill(check_calls(composition.config))
    lines = [str(p) for p in problems]
    assert bool(lines) == (expected is not None), lines
    assert expected is None or any(expected in line for line in lines), lines


def test_checking_names_imports_nothing(compose: Compose, module: SimpleNamespace) -> None:
    before: set[Any] = set(sys.modules)
    assert not compose("model._target_=mine.Net").problems
    assert "mine" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "override",
    [
        "task._target_=torch.nn.functional.mse_loss",
        "task._target_=torch.nn.MSELoss",
        "scheduler._target_=transformers.get_linear_schedule_with_warmup scheduler.num_warmup_steps=3",
    ],
)
def test_what_the_builders_support_is_not_refused(override: str, compose: Compose) -> None:
    composition = compose(*override.split())
    assert composition.config is not None
    assert composition.problems == []
    assert list(check_calls(composition.config)) == []
