"""Uploads of real runs, to a local server that speaks the Hub's interface."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from tests import jobs
from tests.hub_server import HubServer, hub_server
from tests.ranks import exit_code, exit_codes
from trainer import distributed
from trainer.config.composer import Composition
from trainer.logging.log_file import log_file
from trainer.schema.checkpoint import Checkpoint
from trainer.schema.hub import Hub
from trainer.schema.parallel import DDP, Single

TOKEN = "hf_veryverysecretsecret"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants, hf_api

    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def push(
    directory: Path,
    *,
    save_steps: int = 7,
    world_size: int = 1,
    codes: tuple[int, ...] = (0,),
    async_save: bool = False,
    **node: Any,
) -> None:
    """A whole run of 14 steps, its logs in train.log and on stderr as in the launcher's."""
    config = jobs.make_config(
        parallel=Single() if world_size == 1 else DDP(),
        hub=Hub(push_to_hub=True, **({"hub_token": TOKEN, "hub_always_push": True, "hub_model_id": "me/x"} | node)),
        checkpoint=Checkpoint(save_steps=save_steps, save_total_limit=1, async_save=async_save),
    )

    def work() -> None:
        with log_file(directory, rank=distributed.rank(), level="debug", level_replica="warning"):
            jobs.work(config, directory)

    jobs.begin(config, directory)
    assert tuple(exit_codes(work, world_size) if world_size > 1 else [exit_code(work)]) == codes


ROOT = ["README.md", "config.yaml", "model.safetensors"]


def messages(hub: HubServer) -> list[str]:
    return [message for _, message, _ in hub.commits]


def test_end(hub: HubServer, tmp_path: Path) -> None:
    push(tmp_path / "run", hub_strategy="end", hub_private_repo=True)
    assert hub.created == [{"name": "x", "organization": "me", "visibility": "private"}]
    assert hub.commits == [("main", "End of training", ROOT)]
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert hub.files["main"]["model.safetensors"] == weights
    card = hub.files["main"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: pytorch\n")
    assert re.search(r"\| eval_loss \| \d", card)
    assert {authorization for _, _, authorization in hub.requests} == {f"Bearer {TOKEN}", ""}
    without = {path.rpartition("/")[0] for _, path, authorization in hub.requests if not authorization}
    assert without <= {"/storage", "/api"}, "a file goes where the Hub says, which is no place for a token"


def test_every_save(hub: HubServer, tmp_path: Path) -> None:
    push(tmp_path / "run", hub_strategy="every_save")
    assert messages(hub) == ["Training in progress, step 7", "Training in progress, step 14", "End of training"]
    assert all(set(changed) <= set(ROOT) for _, _, changed in hub.commits)
    assert len(hub.stored) == 2, "the weights of step 7, and those of step 14, which are the last"


def test_checkpoint(hub: HubServer, tmp_path: Path) -> None:
    push(tmp_path / "run", hub_strategy="checkpoint")
    steps = [f"Training in progress, step {step}{what}" for step in (7, 14) for what in ("", ", checkpoint")]
    assert messages(hub) == [*steps, "End of training"]
    kept = tmp_path / "run" / "checkpoints" / "checkpoint-14"
    assert on_hub(hub, "last-checkpoint/") == {path.name: path.read_bytes() for path in kept.iterdir()}


@pytest.mark.parametrize("world_size", [1, 2])
def test_weights_and_checkpoint_are_of_one_step(hub: HubServer, tmp_path: Path, world_size: int) -> None:
    """With async_save a checkpoint is uploaded when the next one is saved, seven steps later."""
    push(tmp_path / "sync", world_size=world_size, codes=(0,) * world_size, hub_strategy="every_save")
    expected = sorted(hub.stored)
    hub.stored.clear()
    push(tmp_path / "async", async_save=True, world_size=world_size, codes=(0,) * world_size, hub_strategy="every_save")
    assert sorted(hub.stored) == expected


def test_all_checkpoints_although_retention_removes_them_here(hub: HubServer, tmp_path: Path) -> None:
    hub.delay_s = 0.2
    push(tmp_path / "run", hub_strategy="all_checkpoints")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["checkpoint-14"]
    for step in (7, 14):
        manifest = json.loads(on_hub(hub, f"checkpoint-{step}/")["manifest.json"])
        assert manifest["step"] == step
        assert manifest["files"].keys() | {"manifest.json"} == on_hub(hub, f"checkpoint-{step}/").keys()


def test_a_save_is_left_out_while_one_is_on_its_way(hub: HubServer, tmp_path: Path) -> None:
    hub.delay_s = 3.0
    push(tmp_path / "run", save_steps=1, hub_strategy="every_save", hub_always_push=False)
    assert messages(hub) == ["Training in progress, step 1", "End of training"]


def test_a_branch(hub: HubServer, tmp_path: Path) -> None:
    push(tmp_path / "run", hub_strategy="end", hub_revision="trial")
    assert hub.branches == ["trial"]
    assert [branch for branch, _, _ in hub.commits] == ["trial"]


def test_two_ranks_upload_once(hub: HubServer, tmp_path: Path) -> None:
    push(tmp_path / "run", world_size=2, codes=(0, 0), hub_model_id="x")
    assert len(hub.created) == 1
    assert messages(hub)[-1] == "End of training"


def test_the_token_is_in_no_file_and_no_log(hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    push(tmp_path / "run", hub_strategy="checkpoint")
    everything = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"config.yaml", "overrides.yaml", "manifest.json", "train.log"} <= {path.name for path in everything}
    assert [path for path, content in everything.items() if TOKEN.encode() in content] == []
    assert [path for path, content in hub.files["main"].items() if TOKEN.encode() in content] == []
    assert TOKEN not in "".join(capfd.readouterr())
    assert b"hub_token: '***'" in hub.files["main"]["config.yaml"]


def test_a_failing_upload_is_a_warning(hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hub.refuse = ("/commit/",)
    push(tmp_path / "run", hub_strategy="end")
    assert hub.commits == []
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    told = capfd.readouterr().err
    assert told.count("was not uploaded") == 1
    assert "Traceback" not in told


@pytest.mark.parametrize("token", [None, TOKEN])
def test_what_cannot_work_stops_the_run_before_training(
    hub: HubServer,
    tmp_path: Path,
    token: str | None,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.refuse = ("/repos/create", "/api/models")
    push(tmp_path / "run", codes=(1,), hub_token=token)
    told = capfd.readouterr().err
    assert ("set HF_TOKEN" if token is None else "me/x cannot be opened") in told
    assert TOKEN not in told
    assert not (tmp_path / "run" / "checkpoints").exists()


def on_hub(hub: HubServer, prefix: str) -> dict[str, bytes]:
    return {k.removeprefix(prefix): v for k, v in hub.files["main"].items() if k.startswith(prefix)}


def test_the_weights_load_without_this_project(hub: HubServer, tmp_path: Path) -> None:
    push(tmp_path / "run", hub_strategy="end")
    assert load(hub.files["main"]["model.safetensors"])


@pytest.mark.parametrize("override", ["hub.hub_model_id=me/x", "hub.hub_strategy=end", "hub.hub_always_push=true"])
def test_rules_what_belongs_to_uploads_needs_them(compose: Callable[..., Composition], override: str) -> None:
    (line,) = compose(override).problems
    assert str(line).startswith(f"{override} (command line): needs hub.push_to_hub=true")
    assert not compose(override, "hub.push_to_hub=true").problems


def test_rules_a_frozen_space_needs_a_space(compose: Callable[..., Composition]) -> None:
    problems = compose("logging=[console,trackio]", "logging.reporters.trackio.trackio_static_space_id=me/s").problems
    assert any("needs logging.reporters.trackio.trackio_space_id" in str(problem) for problem in problems)
