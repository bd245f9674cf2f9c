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
from trainer.build.policy import locate, permit, refusal
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
        "torch.utils.collect_env.run",
        "torch.utils.benchmark.Timer.timeit",
        "torch.utils.benchmark.Timer",
        "torch.distributed.checkpoint.format_utils.torch_save_to_dcp",
        "torch.distributed.checkpoint.format_utils.dcp_to_torch_save",
        "torch.distributed.FileStore",
        "torch.from_file",
        "torch.fx.GraphModule",
        "torch.jit.ScriptModule",
        "torch.utils.tensorboard.SummaryWriter",
        "torch.utils.data.datapipes.iter.FileOpener",
        "torch.nn.functional.torch.load",
        "torch.nn.functional.warnings.warn",
        "torch.nn.functional.handle_torch_function",
        "torch.nn.modules.module.torch",
        "torch.optim.Optimizer.load_state_dict",
        "torchmetrics.utilities.imports.sys.exit",
        "numpy.ndarray.tofile",
        "numpy.lib.npyio.NpzFile",
        "sympy.sympify",
        "sympy.parsing.sympy_parser.parse_expr",
        "psutil.Popen",
        "git.cmd.Git.execute",
        "git.Repo",
        "huggingface_hub.utils.run_subprocess",
        "huggingface_hub.snapshot_download",
        "click.edit",
        "click.launch",
        "pygments.lexers.load_lexer_from_file",
        "deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine.TorchCheckpointEngine.load",
        "deepspeed.runtime.engine.DeepSpeedEngine",
        "safetensors.torch.save_file",
        "transformers.pipeline",
        "transformers.Trainer",
        "transformers.PreTrainedModel.save_pretrained",
        "transformers.utils.import_utils.subprocess.run",
        "joblib.Parallel",
        "datasets.Dataset.from_generator",
        "rich.console.Console.save_text",
        "trainer.logging.log_file.log_file",
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
        "trainer.model.huggingface.causal_lm",
        "torch.nn.functional.cross_entropy",
        "torch.optim.swa_utils.AveragedModel",
        "torch.utils.data.random_split",
        "torchmetrics.functional.accuracy",
        "torchmetrics.MeanSquaredError",
        "pytorch_optimizer.Lion",
        "transformers.AutoModelForCausalLM.from_config",
        "transformers.GPT2Config",
        "transformers.get_cosine_schedule_with_warmup",
        "transformers.default_data_collator",
        "datasets.load_dataset",
        "tests.tiny.Still",
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
        "model.act.x.0._target_=os.system (command line): may not be named in a config: os can run any code; "
        "fix: call it in a function of your own and name that"
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


@pytest.mark.parametrize("name", ["os.system", "yaml.unsafe_load", "torch.from_file", "torch.utils.collect_env.run"])
def test_a_name_that_decides_alone_is_refused_without_an_import(name: str) -> None:
    assert refusal(name)


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=torch.utils.collect_env.run",
        "data.train_dataset={_target_:torch.utils.data.TensorDataset,_args_:[{_target_:sympy.sympify,a:'1'}]}",
        "task.metrics.a._target_=psutil.Popen",
        "model={_target_:torch.nn.Sequential,_args_:[{_target_:psutil.Popen,args:ls}]}",
        "callbacks.a._target_=torch.utils.tensorboard.SummaryWriter",
        "logging.reporters.a._target_=rich.console.Console",
        "data.collate_fn=click.edit",
        "evaluation.compute_metrics=safetensors.torch.save_file",
    ],
)
def test_installed_code_is_refused_in_one_line_with_its_override(compose: Compose, override: str) -> None:
    composition = compose("task=classification", "evaluation.eval_strategy=no", override)
    assert composition.config is not None
    problems = composition.problems or composition.origins.fill(check_calls(composition.config))
    (line,) = {str(problem) for problem in problems}
    assert "neither a class of a slot's type" in line
    assert "; fix: run.allow_packages=[" in line


def test_permitted_packages(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    override = "data.collate_fn=sklearn.utils.shuffle"
    assert compose(override).problems
    allowed = compose(override, "run.allow_packages=[sklearn.utils]")
    assert allowed.config is not None
    assert [*allowed.problems, *check_calls(allowed.config)] == []
    # a file of somebody else's cannot
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.yaml").write_text("defaults: [/experiment/digits]\n")
    (tmp_path / "theirs" / "mine.yaml").write_text("# @package _global_\nrun: {allow_packages: [psutil]}\n")
    (tmp_path / "theirs" / "experiment").mkdir()
    (tmp_path / "theirs" / "mine.yaml").rename(tmp_path / "theirs" / "experiment" / "mine.yaml")
    line = "run.allow_packages (" + str(tmp_path / "theirs" / "experiment" / "mine.yaml") + ":2): is taken only from"
    found = compose("experiment=mine", config_dir=str(tmp_path / "theirs")).problems
    assert [str(problem).startswith(line) for problem in found] == [True]
    # the project's own conf/ can
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs" / "config.yaml").unlink()
    (tmp_path / "theirs").rename(tmp_path / "conf")
    assert compose("experiment=mine").problems == []


def test_a_permitted_package_opens_no_other() -> None:
    permit(["tqdm"])
    assert callable(locate("tqdm.tqdm"))
    with pytest.raises(ValueError, match="is os"):
        locate("tqdm.utils.os.popen")


def test_what_looks_like_an_interpolation_stays_text() -> None:
    text = "${oc.create:{_target_:os.getcwd}}"
    assert build({"_target_": "collections.OrderedDict", "x": {"y": text}})["x"] == {"y": text}


def test_hydras_own_keys() -> None:
    layer = {"_target_": "torch.nn.Linear", "_args_": [2], "out_features": 3}
    assert build(layer).out_features == 3
    assert build(layer | {"_partial_": True, "_args_": []})(in_features=5).in_features == 5
    assert build({"_target_": "collections.OrderedDict", "x": layer, "_recursive_": False})["x"] == layer


@pytest.mark.parametrize(
    "model",
    [
        "{_target_:transformers.AutoModel.from_pretrained,pretrained_model_name_or_path:x,trust_remote_code:true}",
        "{_target_:transformers.AutoModel.from_pretrained,_args_:[x],weights_only:false}",
        "{_target_:transformers.AutoModel.from_pretrained,_args_:[x],attn_implementation:some/kernel}",
        "{_target_:torch.nn.Sequential,_args_:[{_target_:tests.tiny.Still,a:{b:[{trust_remote_code:'yes'}]}}]}",
        "{_target_:datasets.load_dataset,path:pandas}",
        "{_target_:datasets.load_dataset,_args_:[script.py]}",
    ],
)
def test_remote_code_needs_its_switch(compose: Compose, model: str) -> None:
    (problem,) = compose(f"model={model}").problems
    assert str(problem).endswith("fix: run.trust_remote_code=true on the command line")
    assert compose(f"model={model}", "run.trust_remote_code=true").problems == []


def test_the_switch_is_no_files(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\nrun: {trust_remote_code: true}\n"
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    (problem,) = compose("experiment=mine").problems
    assert "is taken only from the command line" in str(problem)


def test_an_option_with_another_target_passes_the_policy(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "optim").mkdir(parents=True)
    text = "defaults: [/schema/optim@_here_: adamw, _self_]\n_target_: torch.utils.collect_env.run\n"
    (tmp_path / "conf" / "optim" / "mine.yaml").write_text(text)
    assert "optim._target_=torch.utils.collect_env.run" in str(compose("optim=mine").problems[0])
