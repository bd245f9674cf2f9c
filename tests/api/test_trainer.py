"""Training from Python: the command line's run, with objects, in this process or in others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import Augmented, Blocks, Still
from trainer import Callback, ConfigError, Control, Reporter, Run, State, Trainer

ROOT = Path(__file__).parents[2]
SHORT = (
    *("experiment=null", "task=classification", "optim=adamw", "optim.learning_rate=1e-2", "run.use_cpu=true"),
    *("train.per_device_train_batch_size=8", "train.max_steps=6", "logging=[]", "logging.logging_steps=1"),
)
OWN = ("model._target_=tests.tiny.Blocks", "data.train_dataset._target_=tests.tiny.Augmented")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def numbers(run: Run) -> list[dict[str, str]]:
    """The history without what a clock gave, floats in hex."""
    return [
        {name: float(value).hex() for name, value in record.items() if not name.endswith(("time", "_per_second"))}
        for record in run.history
    ]


def equal_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def blocks() -> Blocks:
    torch.manual_seed(5)
    return Blocks()


def still() -> Still:
    torch.manual_seed(5)
    return Still()


class InterruptAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state: State, control: Control) -> None:
        if state.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


class Losses(Reporter):
    def start(self, run: Any) -> None:
        self.losses: list[float] = []

    def log(self, record: dict[str, Any]) -> None:
        self.losses += [record["loss"]] if "loss" in record else []

    def finish(self, status: str) -> None:
        self.status = status


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("in forward")


def accuracy(prediction: Any) -> Mapping[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_a_second_trainer_gives_the_same_bits_and_so_does_the_command_line(tmp_path: Path) -> None:
    first, second = (Trainer(*SHORT, *OWN).train() for _ in range(2))
    assert first.directory != second.directory
    assert len(numbers(first)) == 7
    assert numbers(first) == numbers(second)
    command = [sys.executable, str(ROOT / "train.py"), *SHORT, *OWN, "hydra.run.dir=typed"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}, timeout=120)
    assert done.returncode == 0
    assert numbers(Run("typed")) == numbers(first)


def test_objects_are_trained_in_place_and_named_in_the_manifest() -> None:
    model, before, losses = blocks(), blocks(), Losses()
    trainer = Trainer(*SHORT, model=model, train_dataset=Augmented(), eval_dataset=Augmented(False), reporters=[losses])
    assert trainer.model is model
    run = trainer.train()
    assert run.status == "completed"
    assert trainer.model is model
    assert not equal_weights(model, before)
    assert equal_weights(run.model(blocks()), model)
    assert losses.losses == [record["loss"] for record in run.history if "loss" in record]
    assert losses.status == "completed"
    assert run.manifest["objects"] == {
        "model": "tests.tiny.Blocks",
        "train_dataset": "tests.tiny.Augmented",
        "eval_dataset": "tests.tiny.Augmented",
        "reporters": {"losses": f"{__name__}.Losses"},
    }
    assert equal_weights(Trainer(*SHORT, model=blocks(), train_dataset=Augmented()).train().model(blocks()), model)


def test_evaluation_and_prediction_before_and_after_training() -> None:
    data = Augmented(False)
    trainer = Trainer(
        *SHORT, model=blocks(), train_dataset=data, eval_dataset={"a": data, "b": data}, compute_metrics=accuracy
    )
    before = trainer.evaluate()
    run = trainer.train()
    after = trainer.evaluate()
    assert after["eval_a_loss"] == after["eval_b_loss"] < before["eval_a_loss"]
    assert set(after) >= {"eval_a_accuracy", "eval_b_accuracy"}
    assert not [path for path in run.directory.iterdir() if "prediction" in path.name]
    found = trainer.predict(data)
    assert found.predictions.shape == (49, 10)
    assert accuracy(found)["accuracy"] == after["eval_a_accuracy"] == found.metrics["test_accuracy"]
    assert trainer.evaluate(data)["eval_loss"] == after["eval_a_loss"]


def test_metric_for_best_model_may_be_one_of_compute_metrics() -> None:
    words = ("evaluation.eval_strategy=steps", "evaluation.eval_steps=3", "checkpoint.save_steps=3")
    words += ("checkpoint.load_best_model_at_end=true", "checkpoint.metric_for_best_model=accuracy")
    data = Augmented(False)
    run = Trainer(
        *SHORT, *words, model=blocks(), train_dataset=data, eval_dataset=data, compute_metrics=accuracy
    ).train()
    assert run.best is not None
    assert run.best["metric"] == "eval_accuracy"


def test_every_problem_is_in_the_exception() -> None:
    with pytest.raises(ConfigError) as caught:
        Trainer("optim.learning_rate=fast", "parallel=zero33", model=blocks())
    assert len(caught.value.problems) == 2
    assert "did you mean parallel=zero3" in str(caught.value)
    assert list(Path.cwd().iterdir()) == []


def test_an_exception_of_the_model_is_raised_and_the_run_has_failed() -> None:
    with pytest.raises(ZeroDivisionError, match="in forward"):
        Trainer(*SHORT, "hydra.run.dir=run", model=Fails(), train_dataset=Augmented()).train()
    run = Run("run")
    assert run.status == "failed"
    assert run.manifest["error"] == "ZeroDivisionError: in forward"
    assert equal_weights(blocks(), blocks())
    assert Trainer(*SHORT, *OWN).train().status == "completed"


def test_ctrl_c_saves_and_the_run_goes_on_with_the_same_bits() -> None:
    whole = Trainer(*SHORT, model=blocks(), train_dataset=Augmented()).train()
    words = (*SHORT, "hydra.run.dir=run")
    stopped = Trainer(*words, model=blocks(), train_dataset=Augmented(), callbacks={"at": InterruptAt(3)}).train()
    assert stopped.status == "stopped"
    assert len(stopped.history) == 3
    again = Trainer(*words, model=blocks(), train_dataset=Augmented(), callbacks={"at": InterruptAt(9)})
    run = again.train(resume_from_checkpoint="auto")
    assert run.directory == stopped.directory
    assert run.status == "completed"
    assert numbers(run)[:6] == numbers(whole)[:6]


def test_a_run_with_objects_asks_for_them_when_it_is_resumed_from_the_command_line() -> None:
    trainer = Trainer(*SHORT, "hydra.run.dir=run", model=blocks(), train_dataset=Augmented())
    run = trainer.train()
    with pytest.raises(ConfigError, match=r"tests\.tiny\.Blocks was passed from Python and has to be passed again"):
        run.model()


@pytest.mark.processes
@pytest.mark.slow
def test_two_ranks_have_processes_of_their_own_and_the_weights_come_back() -> None:
    one = Trainer(*SHORT, model=still(), train_dataset=Augmented(False)).train()
    model = still()
    words = [word.replace("batch_size=8", "batch_size=4") for word in SHORT]
    trainer = Trainer(
        *words, "launch.nproc_per_node=2", model=model, train_dataset=Augmented(False), callbacks=[InterruptAt(99)]
    )
    run = trainer.train()
    assert trainer.model is model
    assert run.manifest["world_size"] == 2
    assert equal_weights(run.model(still()), model)
    assert run.history[0]["loss"] == pytest.approx(one.history[0]["loss"], rel=1e-5)


@pytest.mark.processes
@pytest.mark.slow
def test_an_engine_that_takes_the_model_apart_leaves_the_callers_whole() -> None:
    model = blocks()
    run = Trainer(*SHORT, "parallel=fsdp", model=model, train_dataset=Augmented(False)).train()
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert equal_weights(run.model(blocks()), model)


@pytest.mark.processes
@pytest.mark.slow
def test_a_rank_that_fails_elsewhere_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match=r"rank \d on .*: ZeroDivisionError: in forward; traceback: .*train\.log"):
        Trainer(*SHORT, "launch.nproc_per_node=2", model=Fails(), train_dataset=Augmented()).train()


SCRIPT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from trainer import Trainer

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
    def forward(self, x):
        return self.layer(x)

if __name__ == "__main__":
    inputs = torch.arange(64.0).reshape(16, 4) / 64
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    words = ["experiment=null", "task=regression", "run.use_cpu=true", "train.max_steps=4", "logging=[]"]
    run = Trainer(*words, "launch.nproc_per_node=2", model=Net(), train_dataset=data).train()
    print(run.status, run.manifest["objects"]["model"], run.manifest["world_size"])
"""


@pytest.mark.slow
def test_classes_of_a_script_reach_the_ranks() -> None:
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() == "completed __main__.Net 2", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_each_process_of_torchrun_is_a_rank(engine: str) -> None:
    Path("script.py").write_text(
        SCRIPT.replace('"launch.nproc_per_node=2"', f'"parallel={engine}"')
        .replace("run = Trainer(", "trainer = Trainer(")
        .replace(").train()", ")\n    run = trainer.train()")
        + "    pairs = zip(run.model(Net()).parameters(), trainer.model.parameters())\n"
        + "    print(all(torch.equal(a, b) for a, b in pairs))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert sorted(done.stdout.split("\n")) == ["", "True", "True", *["completed __main__.Net 2"] * 2], done.stderr
    assert len(list(Path("outputs").glob("*/*"))) == 1


@pytest.mark.processes
@pytest.mark.slow
def test_a_notebook_trains_in_its_process_and_with_ranks() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    body, main = SCRIPT.split('if __name__ == "__main__":\n')
    main = "\n".join(line.removeprefix("    ") for line in main.splitlines())
    cells = [body, main.replace('"launch.nproc_per_node=2", ', ""), main, "run"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=180, kernel_name="python3").execute()
    outputs = [cell["outputs"] for cell in notebook.cells]
    printed = ["".join(one.get("text", "") for one in output if one.get("name") == "stdout") for output in outputs]
    assert printed[1:3] == ["completed __main__.Net 1\n", "completed __main__.Net 2\n"]
    assert "status='completed'" in json.dumps(outputs[3])
