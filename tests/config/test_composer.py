"""Composition: types, origins, the slot rule, and every problem at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.composer import Composition
from trainer.schema import Config
from trainer.schema.data import TextBlocks
from trainer.schema.logging import Console, Csv
from trainer.schema.model import GPT, MLP
from trainer.schema.optim import AdamW

Compose = Callable[..., Composition]


def lines(composition: Composition) -> list[str]:
    return list(dict.fromkeys(map(str, composition.problems)))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """``project(path, text)`` writes a file of a user's own project, which is the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_the_default_is_a_typed_tree(compose: Compose) -> None:
    composition = compose()
    assert not composition.problems
    config = composition.config
    assert isinstance(config, Config)
    assert isinstance(config.model, GPT)
    assert isinstance(config.optim, AdamW)
    assert config.optim.fused
    assert isinstance(config.data.eval_dataset, TextBlocks)
    assert config.data.eval_dataset.split == "eval"


def test_lists_of_options(compose: Compose) -> None:
    config = compose("logging=[console,csv]", "callbacks=early_stopping").config
    assert config
    assert {name: type(node) for name, node in config.logging.reporters.items()} == {"console": Console, "csv": Csv}
    assert list(config.callbacks) == ["early_stopping"]
    none = compose("logging=none").config
    assert none
    assert none.logging.reporters == {}


def test_a_recipe_replaces_the_embedded_one(compose: Compose) -> None:
    plain, added, chosen = compose("experiment=null"), compose("+experiment=digits"), compose("experiment=digits")
    assert plain.config
    assert plain.config.optim.learning_rate == 5e-5
    assert isinstance(plain.config.model, GPT)
    assert added.config
    assert chosen.config
    added.config.run.output_dir = chosen.config.run.output_dir  # the time of day
    assert added.config == chosen.config
    assert isinstance(chosen.config.model, MLP)


def test_origins(compose: Compose) -> None:
    origins = compose("train.max_steps=7", "optim=adamw_fused").origins
    assert origins["train.max_steps"] == "command line"
    assert origins["optim.fused"].endswith("conf/optim/adamw_fused.yaml:5")
    assert origins["optim.adam_beta1"] == "default"
    assert ".yaml:" in origins["optim.learning_rate"]


def test_a_choice_came_from_where_it_was_made(compose: Compose, project: Callable[[str, str], Path]) -> None:
    recipe = "# @package _global_\ndefaults:\n  - override /scheduler: cosine\n  - override /task: regression\n"
    project("conf/experiment/mine.yaml", recipe)
    choices = ("experiment=mine", "cluster=slurm_h100", "optim=sgd", "callbacks=early_stopping", "logging=[csv]")
    origins = compose(*choices, "task=classification", "model._target_=torch.nn.Identity").origins
    for key in ("cluster", "optim", "callbacks.early_stopping", "logging.reporters.csv", "task", "model"):
        assert origins[key] == "command line", key
    assert origins["scheduler"] == "conf/experiment/mine.yaml:3"
    assert origins["parallel"].endswith("conf/cluster/slurm_h100.yaml:6")
    assert origins["data.train_dataset"].endswith("conf/config.yaml:4")
    assert origins["optim.momentum"] == origins["logging.reporters.console"] == "default"


@pytest.mark.parametrize(
    ("override", "guess"),
    [
        ("optim.learning_rate=1e-4,3e-4", ""),
        ("optim=adamw,sgd", ""),
        ("logging=console,csv", "did you mean logging=[console,csv]; "),
        ("model.sizes=4,3", "did you mean model.sizes=[4,3]; "),
    ],
)
def test_values_to_sweep_over_need_a_sweep(compose: Compose, override: str, guess: str) -> None:
    what = "(command line): lists several values, which only a sweep takes"
    assert lines(compose(override)) == [f"{override} {what}; {guess}fix: -m {override}"]


def test_origins_in_a_users_project(compose: Compose, project: Callable[[str, str], Path]) -> None:
    project("conf/experiment/mine.yaml", "# @package _global_\noptim:\n  learning_rate: -1\n  weight_decay: .nan\n")
    assert lines(compose("experiment=mine")) == [
        "optim.learning_rate=-1.0 (conf/experiment/mine.yaml:3): is out of range; allowed: at least 0",
        "optim.weight_decay=nan (conf/experiment/mine.yaml:4): is not a finite number; allowed: at least 0",
    ]


def test_config_dir_and_searchpath(compose: Compose, project: Callable[[str, str], Path]) -> None:
    file = project("elsewhere/optim/mine.yaml", "defaults:\n  - /schema/optim@_here_: sgd\n  - _self_\nmomentum: 0.8\n")
    directory = str(file.parents[1])
    for composition in (
        compose("optim=mine", config_dir=directory),
        compose("optim=mine", f"hydra.searchpath=[file://{directory}]"),
    ):
        assert composition.config
        assert composition.config.optim.momentum == 0.8
    assert "does not exist" in lines(compose("hydra.searchpath=[file:///nowhere]"))[0]
    assert "no such directory" in lines(compose(config_dir="nowhere"))[0]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("optmi=sgd", "optmi=sgd (command line): there is no optmi; did you mean optim=sgd"),
        ("+optmi=sgd", "optmi=sgd (command line): there is no optmi; did you mean optim=sgd"),
        (
            "++train.max_stepz=3",
            "train.max_stepz=3 (command line): train has no max_stepz; did you mean train.max_steps=3",
        ),
        ("train.learning_rate=1", "did you mean optim.learning_rate=1"),
        ("optim.lr=1e-4", "did you mean optim.learning_rate=1e-4"),
        ("traim.max_steps=3", "did you mean train.max_steps=3"),
        (
            "parallel.zero_stage=2",
            "is read by parallel=deepspeed, which is not the chosen option; allowed: ddp_backend",
        ),
        ("optim=adamwx", "did you mean optim=adamw"),
        ("optim=adamw_torch_fused", "fix: optim=adamw_fused"),
        ("optim=[sgd]", "takes one option, not a list; fix: optim=sgd"),
        ("+optim=sgd", "optim is in the defaults list; fix: optim=sgd"),
        ("++optim=sgd", "optim is a group; fix: optim=sgd"),
        ("model=my.Net", "fix: model._target_=my.Net"),
        ("+train.max_steps=3", "train.max_steps exists already; fix: train.max_steps=3"),
        ("~train.max_steps", "a key of the schema cannot be removed"),
        ("train.max_steps=1e3", "allowed: a whole number; fix: train.max_steps=1000"),
        ("train.max_steps=3.5", "allowed: a whole number"),
        ("train.max_steps=", "has the wrong type"),
        ("train.max_steps=null", "needs a value; allowed: a whole number"),
        ("train.max_steps=[1]", "allowed: a whole number"),
        ("train=3", "allowed: a mapping"),
        ("train.max_steps.a=1", "train.max_steps is a single value, it has no a"),
        ("run.use_cpu=yess", "allowed: true, false"),
        ("evaluation.eval_strategy=step", "allowed: no, steps, epoch; did you mean evaluation.eval_strategy=steps"),
        ("optim.learning_rate=fast", "allowed: a number"),
        (
            "optim.learning_rate=1e-4,1e-3",
            "lists several values, which only a sweep takes; fix: -m optim.learning_rate=1e-4,1e-3",
        ),
        ("foo", "foo (command line): is not KEY=VALUE"),
        ("a=[1", "cannot be parsed"),
        ("run.run_name=${foo}", "cannot be resolved: Interpolation key 'foo' not found"),
        ("run.run_name=${run.run_name}", "cannot be resolved"),
        ("run.run_name=${oc.env:SURELY_NOT_SET}", "cannot be resolved"),
        ("run.seed=???", "has no value and needs one"),
        ("~model", "~model (command line): every run needs a model; fix: model=gpt"),
        ("logging.reporters.wandb.project=x", "wandb is not chosen"),
        ("callbacks.mine.patience=3", "has no _target_"),
        ("hydra.foo=1", "hydra.foo=1 (command line): Key 'foo' not in 'HydraConf'"),
        ("hydra/launcher=joblib", "hydra/launcher has no option joblib; allowed: basic"),
        ("hydra.verbose=[a]", "fix: logging.log_level=debug"),
        ("hydra.output_subdir=here", "fix: hydra.output_subdir=null"),
        ("data.eval_dataset=foo", "data.eval_dataset=foo (command line): must be a mapping with a _target_"),
        ("checkpoint=${run}", "checkpoint=${run} (command line)"),
        ("checkpoint.save_steps=${model}", "refers to a whole GPT, not to a value"),
        ("hydra.verbose=${foo}", "cannot be resolved"),
        ("train.num_train_epochs=" + "9" * 400, "allowed: a number"),
        ("a" * 400 + "=1", "there is no"),
        ("schema=x", "there is no schema"),
        (
            "learning_rate=1e-4",
            "learning_rate=1e-4 (command line): there is no learning_rate; did you mean optim.learning_rate=1e-4",
        ),
    ],
)
def test_what_a_tired_user_types(compose: Compose, typed: str, expected: str) -> None:
    found = lines(compose(typed))
    assert any(expected in line for line in found), found
    assert all("\n" not in line and len(line) < 1500 for line in found)


def test_all_problems_at_once_in_the_order_typed(compose: Compose) -> None:
    found = lines(
        compose(
            "optmi=sgd", "a=[1", "train.max_steps=x", "optim.learning_rate=-1", "precision=bf8", "train.max_steps=3"
        )
    )
    assert [line.split(" ")[0] for line in found] == [
        "a=[1",
        "train.max_steps=3",
        "precision=bf8",
        "optmi=sgd",
        "train.max_steps=x",
        "optim.learning_rate=-1",
    ]


def test_duplicates_are_errors(compose: Compose) -> None:
    assert lines(compose("run.seed=1", "run.seed=2")) == [
        "run.seed=2 (command line): given twice, the first time as run.seed=1; fix: keep one of them"
    ]
    assert len(lines(compose("experiment=digits", "+experiment=text"))) == 1


BAD_FILES = {
    "not yaml": ("a: [1\n", "bad.yaml:2): is not valid YAML"),
    "tab": ("a:\n\tb: 1\n", "indented with a tab"),
    "binary": ("a: \0\n", "is not valid YAML"),
    "a list": ("- 1\n- 2\n", "must hold a mapping"),
    "a scalar": ("hello\n", "must hold a mapping"),
    "duplicate key": ("run:\n  seed: 1\n  seed: 2\n", "bad.yaml:3): has the duplicate key seed twice"),
    "self-anchor": ("a: &a\n  b: *a\n", "contains itself"),
    "python tag": ("a: !!python/object/apply:os.system [ls]\n", "tags that build Python objects are refused"),
    "two documents": ("a: 1\n---\nb: 2\n", "is not valid YAML"),
    "deep": ("a: " + "[" * 400 + "]" * 400, "nested deeper"),
    "very deep": ("a: " + "[" * 20000 + "]" * 20000, "nested deeper"),
    "bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{n}: &{n} [{','.join(['*' + p] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
        "expands to more than",
    ),
    "broken interpolation": ("run:\n  run_name: ${\n", "bad.yaml"),
    "stray section": ("# @package _global_\nfoo: 1\n", "foo=1 (conf/experiment/bad.yaml:2): there is no foo"),
    "stray key": (
        "# @package _global_\ntrain:\n  max_stepz: 1\n",
        "(conf/experiment/bad.yaml:3): train has no max_stepz",
    ),
    "no package": ("train:\n  max_steps: 1\n", "fix: '# @package _global_' as the first line"),
    "unquoted no": ("# @package _global_\nevaluation:\n  eval_strategy: no\n", 'fix: eval_strategy: "no"'),
    "wrong type": (
        "# @package _global_\ntrain:\n  max_steps: many\n",
        "(conf/experiment/bad.yaml:3): has the wrong type",
    ),
    "unknown option": (
        "# @package _global_\ndefaults:\n  - override /optim: adamwx\n",
        "(conf/experiment/bad.yaml:3): optim has no",
    ),
    "unknown group": ("# @package _global_\ndefaults:\n  - override /optmi: sgd\n", "optmi"),
    "bad defaults": ("defaults: 3\n", "defaults list"),
    "includes itself": ("# @package _global_\ndefaults:\n  - bad\n", "include each other"),
    "searchpath": ("# @package _global_\nhydra:\n  searchpath: [a]\n", "only the primary config may set it"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(compose: Compose, project: Callable[[str, str], Path], name: str) -> None:
    text, expected = BAD_FILES[name]
    project("conf/experiment/bad.yaml", text)
    found = lines(compose("experiment=bad", "run.seed=-1"))
    assert any(expected in line for line in found), found
    assert any(line.startswith("run.seed=-1") for line in found), "the other problems are found as well"
    assert len(found) <= 4


def test_files_that_are_not_text(compose: Compose, project: Callable[[str, str], Path]) -> None:
    file = project("conf/experiment/bad.yaml", "")
    file.write_bytes(b"a: 1\nb: \xff\xfe\n")
    assert "bad.yaml:2): is not UTF-8 text" in lines(compose("experiment=bad"))[0]
    file.write_bytes(b"#" * (1 << 21))
    assert "bytes long" in lines(compose("experiment=bad"))[0]


def test_a_replaced_target_starts_from_nothing(compose: Compose) -> None:
    cfg = compose("model.width=3", "model._target_=torch.nn.Linear", "+model.depth=2").cfg
    assert cfg.model == {"_target_": "torch.nn.Linear", "width": 3, "depth": 2}
    optim = compose("optim._target_=torch.optim.Adam", "optim.amsgrad=true").cfg.optim
    assert set(optim) == {"_target_", "learning_rate", "weight_decay", "amsgrad"}
    same = compose("model._target_=trainer.model.gpt.GPT", "model.n_layer=2").config
    assert same
    assert isinstance(same.model, GPT)


def test_a_replaced_training_set_takes_its_evaluation_set_along(compose: Compose) -> None:
    found = lines(compose("data.train_dataset._target_=torch.utils.data.TensorDataset"))
    assert len(found) == 1
    assert "needs data.eval_dataset, which is null; fix: data.eval_dataset._target_=package.Dataset" in found[0]
    both = compose(
        "data.train_dataset._target_=torch.utils.data.TensorDataset",
        "data.eval_dataset._target_=torch.utils.data.TensorDataset",
    )
    assert not both.problems
    assert both.config
    assert both.config.data.eval_dataset == {"_target_": "torch.utils.data.TensorDataset"}


def test_a_target_in_a_file(compose: Compose, project: Callable[[str, str], Path]) -> None:
    project("conf/experiment/mine.yaml", "# @package _global_\nmodel:\n  _target_: torch.nn.Linear\n  in_features: 2\n")
    config = compose("experiment=mine", "model.out_features=3").config
    assert config
    assert config.model == {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    project("conf/model/linear.yaml", "_target_: torch.nn.Linear\nin_features: 2\n")
    config = compose("experiment=null", "model=linear", "model.out_features=3").config
    assert config
    assert config.model["out_features"] == 3


def test_an_option_of_the_users_own_needs_no_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compose: Compose
) -> None:
    for group, text in {
        "model": "_target_: collections.OrderedDict\nwidth: 16\n",
        "task": "_target_: torch.nn.MSELoss\n",
        "optim": "_target_: torch.optim.NAdam\nlr: 0.1\n",
        "scheduler": "_target_: torch.optim.lr_scheduler.StepLR\nstep_size: 3\n",
        "data": "train_dataset:\n  _target_: collections.OrderedDict\n",
    }.items():
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "mine.yaml").write_text(text)
    (tmp_path / "conf" / "experiment").mkdir()
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n"
        + "".join(f"  - override /{group}: mine\n" for group in ("model", "task", "optim", "scheduler", "data"))
        + "model:\n  depth: 2\n"
    )
    monkeypatch.chdir(tmp_path)
    composition = compose("experiment=mine", "model.width=8")
    assert composition.problems == []
    assert composition.config is not None
    assert composition.config.model == {"_target_": "collections.OrderedDict", "width": 8, "depth": 2}
    assert composition.config.optim == {"_target_": "torch.optim.NAdam", "lr": 0.1}
    assert composition.config.data.train_dataset == {"_target_": "collections.OrderedDict"}
