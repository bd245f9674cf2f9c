from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from trainer.run import directory as run_directory
from trainer.run import provenance
from trainer.run.directory import Status, config_hash, newest_unfinished
from trainer.schema import Config
from trainer.secrets import mask, mask_overrides

CONFIG = {"run": {"seed": 7, "output_dir": "x"}, "optim": {"learning_rate": 1e-5}, "hub": {"hub_token": "hf_secret"}}


def begin(directory: Path, config: object = CONFIG, **fields: object) -> dict[str, object]:
    return run_directory.begin(
        directory, config=config, overrides=["hub.hub_token=hf_secret"], argv=["train.py", "a=1"], **fields
    )


# Directories


def test_a_taken_default_gets_a_number(tmp_path: Path) -> None:
    names = [run_directory.create(tmp_path / "day" / "12-00-00", exact=False).name for _ in range(3)]
    assert names == ["12-00-00", "12-00-00-1", "12-00-00-2"]


def test_an_exact_one_may_exist_but_holds_no_other_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    assert run_directory.create(tmp_path / "mine", exact=True) == tmp_path / "mine"
    with pytest.raises(FileExistsError):
        run_directory.create(tmp_path / "mine", exact=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize("exact", [True, False])
def test_two_at_once_never_share_one(tmp_path: Path, exact: bool) -> None:
    made: list[Path] = []

    def make() -> None:
        try:
            made.append(run_directory.create(tmp_path / "run", exact=exact))
        except FileExistsError:
            assert exact

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == (1 if exact else 8)


# Manifest


def test_what_a_run_leaves(tmp_path: Path) -> None:
    begin(tmp_path, world_size=2)
    manifest = run_directory.read(tmp_path)
    assert manifest["status"] == "running"
    assert (manifest["seed"], manifest["world_size"]) == (7, 2)
    assert manifest["packages"].keys() >= {"torch", "hydra-core", "omegaconf"}
    assert manifest["config_hash"] == config_hash(CONFIG)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == mask(CONFIG)
    assert yaml.safe_load((tmp_path / "overrides.yaml").read_text()) == ["hub.hub_token=***"]
    run_directory.finish(tmp_path, Status.failed, error="ValueError: x", result={"eval_loss": 1.0})
    ended = run_directory.read(tmp_path)
    assert (ended["status"], ended["error"], ended["result"]) == ("failed", "ValueError: x", {"eval_loss": 1.0})
    started, end = (datetime.fromisoformat(ended[key]) for key in ("started_at", "ended_at"))
    assert started.tzinfo is not None
    assert started <= end
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "manifest.json", "overrides.yaml"]
    assert all(b"hf_secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_the_typed_tree_is_written_as_plain_yaml(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["logging"]["log_level"] == "info"
    assert written["train"]["per_device_train_batch_size"] == Config().train.per_device_train_batch_size


def test_going_on_in_place_keeps_the_run_and_the_older_config(tmp_path: Path) -> None:
    first = begin(tmp_path)
    run_directory.finish(tmp_path, Status.preempted)
    begin(tmp_path)
    run_directory.resumed(tmp_path, step=30)
    assert not (tmp_path / "config.1.yaml").exists()
    begin(tmp_path, {**CONFIG, "optim": {"learning_rate": 2.0}})
    run_directory.resumed(tmp_path, step=40, world_size=2)
    manifest = run_directory.read(tmp_path)
    assert (manifest["run_id"], manifest["started_at"]) == (first["run_id"], first["started_at"])
    assert (manifest["status"], manifest["ended_at"]) == ("running", None)
    assert [entry["step"] for entry in manifest["resumed"]] == [30, 40]
    assert manifest["resumed"][1]["world_size"] == 2
    assert yaml.safe_load((tmp_path / "config.1.yaml").read_text())["optim"]["learning_rate"] == 1e-5
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["optim"]["learning_rate"] == 2.0


def test_a_reader_sees_a_whole_manifest_at_any_time(tmp_path: Path) -> None:
    begin(tmp_path)
    done = threading.Event()

    def write() -> None:
        for number in range(100):
            run_directory.update(tmp_path, result={"n": number})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "running"
    writer.join()
    assert run_directory.read(tmp_path)["result"] == {"n": 99}


def test_the_newest_unfinished_run_of_the_same_config(tmp_path: Path) -> None:
    def make(name: str, config: object, status: Status | None, **fields: object) -> Path:
        directory = run_directory.create(tmp_path / name, exact=True)
        begin(directory, config, **fields)
        if status:
            run_directory.finish(directory, status)
        return directory

    assert newest_unfinished(tmp_path, CONFIG) is None
    make("day/done", CONFIG, Status.completed)
    make("day/other", {"a": 1}, Status.failed)
    (tmp_path / "day" / "broken").mkdir()
    (tmp_path / "day" / "broken" / "manifest.json").write_text('{"half')
    run_directory.create(tmp_path / "day" / "empty", exact=True)
    assert newest_unfinished(tmp_path, CONFIG) is None
    old = make("day/old", CONFIG, Status.preempted, started_at="2020-01-01T00:00:00+00:00")
    assert newest_unfinished(tmp_path, CONFIG) == old
    killed = make("direct", CONFIG, None, process={"pid": 2**22 + 1, "started": 5})
    assert newest_unfinished(tmp_path, CONFIG) == killed


def test_a_run_whose_hash_an_older_release_wrote_is_found_by_its_config(tmp_path: Path) -> None:
    begin(run_directory.create(tmp_path / "run", exact=True), CONFIG, config_hash="0" * 64)
    run_directory.finish(tmp_path / "run", Status.preempted)
    assert newest_unfinished(tmp_path, CONFIG) == tmp_path / "run"
    assert newest_unfinished(tmp_path, {**CONFIG, "optim": {"learning_rate": 2.0}}) is None


def test_a_run_that_differs_in_what_may_drift_is_found(tmp_path: Path) -> None:
    begin(run_directory.create(tmp_path / "run", exact=True), CONFIG)
    run_directory.finish(tmp_path / "run", Status.preempted)
    other = {**CONFIG, "optim": {"learning_rate": 2.0}}
    assert newest_unfinished(tmp_path, other) is None
    assert newest_unfinished(tmp_path, other, ["optim.learning_rate"]) == tmp_path / "run"


def test_a_run_that_is_still_running_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.run import directory as run_directory\n"
        "d = run_directory.create(Path(sys.argv[1]), exact=True)\n"
        "run_directory.begin(d, config={'a': 1}, overrides=[], argv=[]); print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert run_directory.is_alive(run_directory.read(tmp_path / "run"))
        assert newest_unfinished(tmp_path, {"a": 1}) is None
        process.kill()
    assert newest_unfinished(tmp_path, {"a": 1}) == tmp_path / "run"


def test_the_hash_is_of_what_makes_the_run() -> None:
    same = {
        "checkpoint": {"resume_from_checkpoint": "auto"},
        "run": {**CONFIG["run"], "output_dir": "y", "run_name": "z"},
        "launch": {"nproc_per_node": 2},
        "hub": {"hub_token": "rotated"},
        "logging": {"reporters": {"wandb": {"name": "z"}}},
    }
    base = {**CONFIG, "checkpoint": {}, "logging": {}}
    assert config_hash(base | same) == config_hash(base)
    assert config_hash(base | {"optim": {"learning_rate": 1e-4}}) != config_hash(base)
    assert config_hash(dict(reversed(list(base.items())))) == config_hash(base)
    assert base["run"]["output_dir"] == "x", "the config itself is left as it is"


# Secrets

SECRET = ["hub_token", "token", "HF_TOKEN", "access_token", "accessToken", "api_key", "apikey", "wandb_api_key",
          "password", "passwd", "db_password", "client_secret", "aws_credentials", "private_key"]  # fmt: skip
OPEN = ["tokenizer", "tokenizer_name", "num_tokens", "eos_token", "pad_token", "mask_token", "eos_token_id",
        "token_type_ids", "include_tokens_per_second", "average_tokens_across_devices", "keyboard"]  # fmt: skip


def test_secrets_are_masked_and_nothing_else() -> None:
    assert mask({key: "abcd" for key in SECRET}) == dict.fromkeys(SECRET, "***")
    assert mask({key: "abcd" for key in OPEN}) == {key: "abcd" for key in OPEN}
    assert mask({"hub_token": None, "token": "", "new_token": 3, "password": 1234, "use_token": True}) == {
        "hub_token": None, "token": "", "new_token": 3, "password": "***", "use_token": True,
    }  # fmt: skip
    assert mask({"credentials": {"user": "a"}, "x": [{"token": "abcd"}]}) == {
        "credentials": "***",
        "x": [{"token": "***"}],
    }
    assert mask({"url": "https://me:pw@host/x"}) == {"url": "https://me:***@host/x"}


@pytest.mark.parametrize(
    ("argument", "masked"),
    [
        ("hub.hub_token=abc,def", "hub.hub_token=***"),
        ("+model.auth={api_key: 'a b', size: 2}", "+model.auth={api_key: ***, size: 2}"),
        ("++x.password=1234", "++x.password=***"),
        ("hub.hub_token=null", "hub.hub_token=null"),
        ("model.eos_token=</s>", "model.eos_token=</s>"),
        ("data.tokenizer=gpt2", "data.tokenizer=gpt2"),
        ("x.url=https://me:pw@host/x", "x.url=https://me:***@host/x"),
        ("optim=adamw", "optim=adamw"),
    ],
)
def test_overrides_are_masked(argument: str, masked: str) -> None:
    assert mask_overrides([argument]) == [masked]


def test_a_flag_with_its_secret_beside_it() -> None:
    assert mask_overrides(["run", "--api-key", "abcd", "--token", "x1", "a=1"]) == [
        "run", "--api-key", "***", "--token", "***", "a=1",
    ]  # fmt: skip


# git


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def test_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git() == {}
    git(tmp_path, "init")
    code = tmp_path / "code.py"
    code.write_text("a = 1\n")
    assert provenance.git() == {"sha": "", "dirty": True, "patch": ""}
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = provenance.git()
    assert len(clean["sha"]) == 40
    assert (clean["dirty"], clean["patch"]) == (False, "")
    (tmp_path / "new.py").write_text("")
    assert (provenance.git()["dirty"], provenance.git()["patch"]) == (True, "")
    code.write_text('a = 2\nhf_token = "hf_abcdefghijkl"\ntoken = next(tokens)\n')
    patch = provenance.git()["patch"]
    assert "+a = 2" in patch
    assert "+hf_token = ***" in patch
    assert "+token = next(tokens)" in patch
    code.write_text("x\n" * provenance.PATCH_LIMIT)
    patch = provenance.git()["patch"]
    assert patch.endswith(f"... cut at {provenance.PATCH_LIMIT} bytes\n")
    assert len(patch) < provenance.PATCH_LIMIT + 100


def test_no_torch() -> None:
    code = "import sys, trainer.run.directory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()}).returncode == 0
