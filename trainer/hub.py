"""Uploads to the Hugging Face Hub in the background: no failure there ends a run or holds it up."""

from __future__ import annotations

import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from . import distributed
from .callbacks.callback import Callback
from .checkpoint.export import export_weights, saved_weights
from .errors import describe
from .schema import Config
from .schema.checkpoint import SaveStrategy
from .schema.hub import HubStrategy
from .state import Control, State
from .worker import Worker

if TYPE_CHECKING:
    from concurrent.futures import Future

logger = logging.getLogger(__name__)


class Hub(Callback):
    """Uploads what hub.hub_strategy names after each save, and `model/` at the end.

    It runs on every rank, because they agree on whether an upload is under way; rank 0 uploads. The files of a save
    are copied first (a checkpoint's as hard links), so that neither training nor retention waits for the upload.
    """

    def __init__(self, config: Config, directory: Path, model: nn.Module) -> None:
        """``model``: without what an engine wraps around it."""
        self._config, self._node = config, config.hub
        self._directory, self._model = directory, model
        self._staging = directory / ".hub"
        self._metrics: dict[str, Any] = {}
        self._worker = Worker("hub")
        self._upload: Future[None] | None = None
        if distributed.is_main():
            shutil.rmtree(self._staging, ignore_errors=True)
            self._open()

    def on_log(self, state: State, control: Control, logs: dict[str, Any]) -> None:
        self._metrics |= logs

    def on_evaluate(self, state: State, control: Control, metrics: dict[str, float]) -> None:
        self._metrics |= metrics

    def on_save(self, state: State, control: Control, directory: Path) -> None:
        node = self._node
        busy = self._upload is not None and not self._upload.done()
        if node.hub_strategy == HubStrategy.end or distributed.broadcast(busy and not node.hub_always_push):
            return
        if not distributed.is_main():
            return
        weights = saved_weights(self._model, directory)  # with checkpoint.async_save the engine's are of a later step
        place = self._config.checkpoint.save_strategy
        where = f"epoch {int(state.epoch)}" if place == SaveStrategy.epoch else f"step {state.step}"
        message, staged = f"Training in progress, {where}", self._staging / str(state.step)
        export_weights(self._model, weights, staged / "root", safetensors=self._config.checkpoint.save_safetensors)
        self._describe(staged / "root", state)
        pushes: list[dict[str, Any]] = [{"folder_path": staged / "root", "commit_message": message}]
        if node.hub_strategy in (HubStrategy.checkpoint, HubStrategy.all_checkpoints):
            shutil.copytree(directory, staged / "checkpoint", copy_function=_link)
            one = node.hub_strategy == HubStrategy.checkpoint
            pushes.append(
                {
                    "folder_path": staged / "checkpoint",
                    "path_in_repo": "last-checkpoint" if one else directory.name,
                    "commit_message": f"{message}, checkpoint",
                    "delete_patterns": ["*"] if one else None,  # an earlier upload may have had more ranks
                }
            )
        self._begin(staged, pushes)

    def end(self, state: State) -> None:
        """Upload `model/`, which has been written, and wait for this and all earlier uploads."""
        if not distributed.is_main():
            return
        staged = self._staging / "end"
        shutil.copytree(self._directory / "model", staged / "root", copy_function=_link)
        self._describe(staged / "root", state)
        self._begin(staged, [{"folder_path": staged / "root", "commit_message": "End of training"}])
        assert self._upload is not None
        self._upload.result()
        shutil.rmtree(self._staging, ignore_errors=True)

    def _open(self) -> None:
        """Open the repository, or create it. This happens before training, and an error stops the run."""
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils.tqdm import disable_progress_bars

        node, directory = self._node, self._directory
        self._token = node.hub_token or get_token()
        if self._token is None:
            raise PermissionError(
                "hub.push_to_hub=true needs a Hugging Face token: set HF_TOKEN or run `hf auth login`"
            )
        disable_progress_bars()
        self._api = HfApi(token=self._token)
        name = node.hub_model_id or self._config.run.run_name or "-".join(directory.absolute().parts[-2:])
        try:
            self._repo = self._api.create_repo(name, private=node.hub_private_repo, exist_ok=True).repo_id
            if node.hub_revision and not node.hub_revision.startswith("refs/"):
                self._api.create_branch(self._repo, branch=node.hub_revision, exist_ok=True)
        except Exception as error:
            raise RuntimeError(f"hub.push_to_hub=true: {name} cannot be opened: {self._safe(error)}") from None
        logger.info("uploads to %s/%s", self._api.endpoint, self._repo)

    def _describe(self, directory: Path, state: State) -> None:
        """Write the model card, and the run's config with its secrets masked."""
        shutil.copyfile(self._directory / "config.yaml", directory / "config.yaml")
        library = "transformers" if (directory / "config.json").exists() else "pytorch"
        shown = {k: v for k, v in self._metrics.items() if k in ("loss", "train_loss") or k.startswith("eval_")}
        rows = [f"| {name} | {value:.6g} |" for name, value in shown.items() if isinstance(value, int | float)]
        table = ["| metric | value |", "|---|---|", *rows] if rows else []
        card = [
            "---", f"library_name: {library}", "tags:", "- hydra-trainer", "---", "",
            f"# {self._repo.rpartition('/')[2]}", "",
            f"Trained for {state.step} steps, {state.epoch:.4g} epochs; `config.yaml` is the whole configuration.", "",
            *table,
        ]  # fmt: skip
        (directory / "README.md").write_text("\n".join(card).rstrip() + "\n", encoding="utf-8")

    def close(self) -> None:
        """End the thread after the uploads under way. A run that is preempted does not wait for them."""
        self._worker.close()

    def _begin(self, staged: Path, pushes: list[dict[str, Any]]) -> None:
        """Upload after what is under way."""
        self._upload = self._worker.submit(partial(self._push, staged, pushes))

    def _push(self, staged: Path, pushes: list[dict[str, Any]]) -> None:
        try:
            for push in pushes:
                self._api.upload_folder(repo_id=self._repo, revision=self._node.hub_revision, **push)
        except Exception as error:
            logger.warning("%r was not uploaded to %s, the run goes on: %s",
                           pushes[0]["commit_message"], self._repo, self._safe(error))  # fmt: skip
        shutil.rmtree(staged, ignore_errors=True)

    def _safe(self, error: Exception) -> str:
        """The error in one line, without the token: a malformed one is quoted by the error that it causes."""
        return describe(error).replace(str(self._token), "***")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
