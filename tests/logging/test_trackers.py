"""The trackers themselves, offline and in processes of their own; what they wrote is read back.

Those that are not installed are skipped: see pyproject.toml's extras.
"""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.logging.tracker_run import track, tracked
from trainer.config.machine import PACKAGES
from trainer.schema import trackers

pytestmark = pytest.mark.slow
PREEMPTED_AND_RESUMED = [(1, 3, 0, "preempted"), (3, 5, 2, "completed")]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [module for module in modules if find_spec(module) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


def query(database: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(statement).fetchall()


def table(path: Path, delimiter: str) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter=delimiter))


@needs("mlflow", "sqlalchemy")
def test_mlflow_in_a_database_and_its_resume(tmp_path: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db", "MLFLOW_TAGS": '{"a": "b"}'}
    tracked("mlflow", tmp_path, {"log_artifacts": True}, *PREEMPTED_AND_RESUMED, environment=environment)
    assert query(tmp_path / "m.db", "select name, status from runs") == [("the-name", "FINISHED")]
    assert ("p",) in query(tmp_path / "m.db", "select name from experiments")
    losses = query(tmp_path / "m.db", "select step, value from metrics where key = 'loss' order by step, timestamp")
    assert losses == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25), (5, 0.2)], "step 3, told twice, stands once"
    evaluated = query(tmp_path / "m.db", "select step, value from metrics where key = 'eval_loss' and step < 3")
    assert sorted(evaluated) == [(1, 2.0), (2, 1.0)]
    params = dict(query(tmp_path / "m.db", "select key, value from params"))
    assert params["optim.learning_rate"] == "0.0001"
    assert params["hub.hub_token"] == "***"
    tags = dict(query(tmp_path / "m.db", "select key, value from tags"))
    assert (tags["a"], tags["trainer.run_id"]) == ("b", "abc123def456")
    assert list(tmp_path.rglob("artifacts/config.yaml"))


@needs("mlflow", "sqlalchemy")
def test_mlflow_failed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/m.db"
    tracked("mlflow", tmp_path, {"tracking_uri": uri, "experiment": "e", "name": "n"}, (1, 1, 0, "failed"))
    assert query(tmp_path / "m.db", "select name, status from runs") == [("n", "FAILED")]


@needs("trackio")
def test_trackio_on_this_machine(tmp_path: Path) -> None:
    tracked("trackio", tmp_path, {}, *PREEMPTED_AND_RESUMED, environment={"TRACKIO_DIR": str(tmp_path / "t")})
    rows = query(tmp_path / "t" / "p.db", "select run_name, step, metrics from metrics order by id")
    assert {name for name, _, _ in rows} == {"the-name"}
    told = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert [(step, row["train/loss"]) for step, row in told if "train/loss" in row][:2] == [(1, 1.0), (2, 0.5)]
    assert [row["eval/loss"] for _, row in told if "eval/loss" in row][:2] == [2.0, 1.0]
    assert told[-1][1]["train/train_loss"] == 0.5
    assert told[-1][1]["train/global_step"] == 5


@needs("trackio")
def test_trackio_in_a_space_needs_a_token(tmp_path: Path) -> None:
    done = track("trackio", tmp_path, {"trackio_space_id": "me/space"})
    assert done.returncode == 1
    assert "set HF_TOKEN" in done.stderr


@needs("comet_ml")
def test_comet_offline(tmp_path: Path) -> None:
    tracked("comet_ml", tmp_path, {"mode": "offline", "tags": ["t"]})
    (archive,) = (tmp_path / "run" / "comet_ml").glob("*.zip")
    with zipfile.ZipFile(archive) as content:
        messages = [json.loads(line) for line in content.read("messages.json").splitlines()]
        experiment = json.loads(content.read("experiment.json"))
    assert (experiment["project_name"], experiment["tags"]) == ("p", ["t"])
    metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
    numbers = {(m["metricName"], m["step"]): m["metricValue"] for m in metrics}
    assert [numbers["train/loss", step] for step in (1, 2, 3)] == [1.0, 0.5, 1 / 3]
    assert [numbers["eval/loss", step] for step in (1, 2)] == [2.0, 1.0]
    text = json.dumps(messages)
    assert "optim.learning_rate" in text
    assert "the-name" in text


@needs("clearml")
def test_clearml_offline(tmp_path: Path) -> None:
    tracked("clearml", tmp_path, {"mode": "offline", "tags": ["t"]})
    (task,) = tmp_path.rglob("offline/*/task.json")
    described = json.loads(task.read_text())
    assert described["name"] == "the-name"
    assert set(described["tags"]) == {"t", "abc123def456"}
    assert described["hyperparams"]["trainer"]["optim/learning_rate"]["value"] == "0.0001"
    told = [m for line in (task.parent / "metrics.jsonl").read_text().splitlines() for m in json.loads(line)]
    scalars = {(m["metric"], m["variant"], m["iter"]): m["value"] for m in told}
    assert scalars["train", "loss", 2] == 0.5
    assert scalars["eval", "loss", 2] == 1.0
    assert [m["value"] for m in told if m["metric"] == "Summary" and m["variant"] == "train_loss"] == [0.5]


@needs("dvclive")
def test_dvclive_and_its_resume(tmp_path: Path) -> None:
    tracked("dvclive", tmp_path, {}, (1, 3, 0, "preempted"), (4, 5, 3, "completed"))
    live = tmp_path / "run" / "dvclive"
    rows = table(live / "plots" / "metrics" / "loss.tsv", "\t")
    assert [(int(row["step"]), float(row["loss"])) for row in rows] == [(n, 1 / n) for n in range(1, 6)]
    rows = table(live / "plots" / "metrics" / "eval" / "loss.tsv", "\t")
    assert [float(row["loss"]) for row in rows] == [2 / n for n in range(1, 6)]
    assert json.loads((live / "metrics.json").read_text())["train"]["loss"] == 0.5
    params = yaml.safe_load((live / "params.yaml").read_text())
    assert params["optim.betas"] == [0.9, 0.99]
    assert params["hub.hub_token"] == "***"


@needs("wandb")
def test_wandb_records_a_masked_command_line(tmp_path: Path) -> None:
    tracked("wandb", tmp_path, {"mode": "offline"})
    assert b"hub.hub_token=***" in next(tmp_path.rglob("run-*.wandb")).read_bytes()


@needs("codecarbon")
def test_codecarbon_offline(tmp_path: Path) -> None:
    tracked("codecarbon", tmp_path, {"country_iso_code": "DEU", "measure_power_secs": 1})
    (row,) = table(tmp_path / "run" / "emissions.csv", ",")
    assert (row["experiment_id"], row["project_name"], row["country_iso_code"]) == ("abc123def456", "p", "DEU")
    assert float(row["energy_consumed"]) > 0


@needs("swanlab")
def test_swanlab_offline(tmp_path: Path) -> None:
    tracked("swanlab", tmp_path, {"mode": "offline"}, environment={"SWANLAB_PROJECT_NAME": "mine"})
    (file,) = tmp_path.glob("run/swanlab/run-*/run-abc123def456.swanlab")
    content = file.read_bytes()
    for name in (b"train/loss", b"eval/loss", b"single_value/train_loss", b"the-name", b"mine"):
        assert name in content
    config = (file.parent / "files" / "config.yaml").read_text()
    assert "learning_rate" in config


@needs("neptune")
def test_neptune_offline(tmp_path: Path) -> None:
    tracked("neptune", tmp_path, {"mode": "offline", "tags": ["t"]})
    (log,) = tmp_path.glob(".neptune/offline/*/data-1.log")
    told = [json.loads(line)["obj"] for line in log.read_text().splitlines()]
    values: dict[str, list[Any]] = {}
    for item in told:
        values.setdefault("/".join(item["path"]), []).append(item)
    losses = [value for item in values["finetuning/train/loss"] for value in item["values"]]
    assert [(value["step"], value["value"]) for value in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert values["finetuning/trainer_parameters/optim/learning_rate"][0]["value"] == 1e-4
    assert values["finetuning/train/epoch"][-1]["type"] == "AssignFloat"
    assert values["sys/name"][0]["value"] == "the-name"


AIM_READER = """
import json, sys
from aim import Repo, Run
repo = Repo.from_path(sys.argv[1])
(hash,) = repo.list_all_runs()
run = Run(hash, repo=repo)
found = [[m.name, m.context.to_dict(), sorted(m.values.sparse_list()[1])] for m in run.metrics()]
print(json.dumps([run["run_id"], run.name, run.experiment, run["config", "optim", "learning_rate"], found]))
"""


@needs("aim")
def test_aim_in_a_local_repository_and_its_resume(tmp_path: Path) -> None:
    for session in PREEMPTED_AND_RESUMED:
        tracked("aim", tmp_path, {}, session)
    done = subprocess.run([sys.executable, "-c", AIM_READER, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    run_id, name, experiment, rate, metrics = json.loads(done.stdout.splitlines()[-1])
    assert (run_id, name, experiment, rate) == ("abc123def456", "the-name", "p", 1e-4)
    by_name = {(name, context.get("subset")): values for name, context, values in metrics}
    assert by_name["loss", None] == [0.2, 0.25, 1 / 3, 0.5, 1.0]
    assert by_name["loss", "eval"] == [0.4, 0.5, 2 / 3, 1.0, 2.0]


FLYTE_TASK = """
import sys
from pathlib import Path
from flytekit import FlyteContextManager
from flytekit.core.checkpointer import SyncCheckpoint
from trainer.logging.flyte import Flyte
from trainer.schema.trackers import Flyte as Node
from trainer.state import RunInfo

home = Path(sys.argv[1])
(home / "checkpoints" / "checkpoint-5").mkdir(parents=True)
(home / "checkpoints" / "checkpoint-5" / "weights").write_text("w")
context = FlyteContextManager.current_context()
store = SyncCheckpoint(checkpoint_dest=str(home / "store"))
parameters = context.user_space_params.with_task_sandbox().add_attr("CHECKPOINT", store).build()
parameters._checkpoint = store
with FlyteContextManager.with_context(context.with_execution_state(
    context.execution_state.with_params(user_space_params=parameters)
)):
    flyte = Flyte(Node())
    flyte.start(RunInfo(directory=home, run_id="r", run_name="n", project="p", config={}, resumed_step=0))
    flyte.log({"step": 1, "epoch": 0.5, "time": 1.0, "loss": 2.5})
    flyte.finish("completed")
    print([deck.name for deck in parameters.decks], "2.5" in parameters.decks[-1].html)
"""


@needs("flytekit")
def test_flyte_inside_a_task(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FLYTE_TASK, str(tmp_path)], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store").exists()
    assert "Log History" in done.stdout
    assert "True" in done.stdout


NO_CREDENTIAL = {
    "comet_ml": ("comet_ml", "set COMET_API_KEY"),
    "clearml": ("clearml", "set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"),
    "neptune": ("neptune", "set NEPTUNE_API_TOKEN"),
    "swanlab": ("swanlab", "set SWANLAB_API_KEY"),
    "flyte": ("flytekit", "no Flyte task"),
    "azure_ml": ("azureml", "AZUREML_RUN_ID"),
}


@pytest.mark.parametrize("name", NO_CREDENTIAL)
def test_without_a_credential_the_run_does_not_start_and_says_what_is_missing(name: str, tmp_path: Path) -> None:
    module, said = NO_CREDENTIAL[name]
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    done = track(name, tmp_path)
    assert done.returncode == 1
    text = " ".join(done.stderr.split())
    assert f"logging.reporters.{name} cannot start" in text
    assert said in text


def test_every_tracker_has_a_pip_line() -> None:
    nodes = [value for value in vars(trackers).values() if isinstance(value, type) and hasattr(value, "_target_")]
    assert len([node for node in nodes if node.__name__ in PACKAGES]) == len(nodes) == 11
