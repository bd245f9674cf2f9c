"""What a run keeps of itself and goes on from: its checkpoints, and `model/`."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import distributed
from ..checkpoint import store
from ..checkpoint.background import Background
from ..checkpoint.export import export_weights
from ..checkpoint.shard import Shard
from ..errors import CheckpointError
from ..logging.jsonl import MetricsFile
from ..optim import averages
from ..rng import capture_rng, restore_rng
from ..run import directory as run_directory
from ..schema import Config
from .loop import Loop

logger = logging.getLogger(__name__)

_KEPT = ("step", "epoch", "best_metric", "best_step", "best_checkpoint", "num_input_tokens_seen")
"""The fields of State that a checkpoint keeps; the others follow from the config."""


class Keeping:
    """Saves, loads and exports the parts of a loop. All methods are collective."""

    def __init__(
        self, config: Config, directory: Path, loop: Loop, metrics: MetricsFile | None, batch_size: int
    ) -> None:
        self.config, self.directory, self.loop, self.metrics = config, directory, loop, metrics
        self.batch_size = batch_size
        self.root = directory / "checkpoints"
        self.background: Background[Path] | None = Background() if config.checkpoint.async_save else None

    def save(self) -> None:
        """A checkpoint of this step; then retention."""
        with averages.average_weights(self.loop.optimizer):
            self._save()

    def _save(self) -> None:
        config, state = self.config.checkpoint, self.loop.state
        engine_state = self.loop.engine.state()
        shards = engine_state.shards
        if config.save_only_model:
            shards = [shard for shard in shards if shard.name.startswith("model/")]
        if state.best_step == state.step:
            state.best_checkpoint = state.step
        write = partial(
            self._write,
            state.step,
            state={
                "state": {name: getattr(state, name) for name in _KEPT},
                "engine": {} if config.save_only_model else engine_state.meta,
                "scheduler": deepcopy(self.loop.scheduler.state_dict()),
                "data": {
                    "epoch": self.loop.data.epoch,
                    "step_in_epoch": self.loop.data.step_in_epoch,
                    "update_size": self.loop.data.layout.update_size,
                    "batch_size": self.batch_size,
                },
                "callbacks": deepcopy(self.loop.events.state_dict()),
                "only_model": config.save_only_model,
            },
            rank_state={"rng": capture_rng(), "meter": self.loop.meter.state_dict()},
            protect=[state.step, *filter(None, [state.best_checkpoint])],
        )
        if self.background is None:
            self.loop.events.on_save(state, self.loop.control, write(shards=shards))
        else:
            self.finish()
            copies = [replace(shard, data=shard.data.to("cpu", copy=True)) for shard in shards]
            self.background.start(partial(write, shards=copies))

    def _write(
        self, step: int, *, shards: list[Shard], state: dict[str, Any], rank_state: dict[str, Any], protect: list[int]
    ) -> Path:
        path = store.save(self.root, step, shards=shards, state=state, rank_state=rank_state)
        store.prune(self.root, self.config.checkpoint.save_total_limit, protect)
        return path

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any, and tell the callbacks."""
        path = self.background.wait() if self.background else None
        if path is not None:
            with averages.average_weights(self.loop.optimizer):
                self.loop.events.on_save(self.loop.state, self.loop.control, path)

    def rollback(self) -> None:
        """Back to the newest checkpoint; the data goes on after the batch that went wrong."""
        cursor = self.loop.data.epoch, self.loop.data.step_in_epoch
        self.finish()
        path, warnings = store.newest(self.root)
        if path is None:
            raise RuntimeError(
                "train.nan_policy=rollback found no checkpoint yet; fix: a smaller checkpoint.save_steps"
            )
        _warn(warnings)
        self.load(path)
        self.loop.data.epoch, self.loop.data.step_in_epoch = cursor

    def resume(self) -> None:
        """Go on from where checkpoint.resume_from_checkpoint says; `auto` without a checkpoint starts afresh."""
        wish = self.config.checkpoint.resume_from_checkpoint
        if wish is None:
            return
        if not self.config.run.do_train:
            self.load_weights(wish)
            return
        if wish == "auto":
            path, warnings = store.newest(self.root)
            _warn(warnings)
        else:
            path = Path(wish)
            store.verify(path)
        if path is None:
            if distributed.is_main():
                logger.warning(
                    "checkpoint.resume_from_checkpoint=auto: no checkpoint in %s: starting afresh", self.directory
                )
                if self.metrics:
                    self.metrics.truncate(0)
            return
        self.load(path)
        if self.config.checkpoint.ignore_data_skip:
            self.loop.data.step_in_epoch = 0
        if distributed.is_main():
            logger.info("resumed from %s", path)
            run_directory.resumed(self.directory, step=self.loop.state.step, checkpoint=str(path))

    def load(self, path: Path) -> None:
        """Everything back as it was at the end of the checkpoint's step."""
        saved = store.load(path, verified=True)
        kept = saved.state
        if kept["only_model"]:
            raise CheckpointError(
                f"{path} was saved with checkpoint.save_only_model=true: it holds weights, nothing to go on from"
            )
        size, saved_size = self.loop.data.layout.update_size, kept["data"]["update_size"]
        if size != saved_size:
            raise CheckpointError(
                f"{path} was saved with {saved_size} samples per update, this run has {size}: its place in the data "
                "has no meaning here; fix: the same per_device_train_batch_size x gradient_accumulation_steps x ranks"
            )
        self.loop.engine.load_state(saved.reader, kept["engine"])
        averages.train_weights(self.loop.optimizer)
        self.restore(kept)
        self.loop.scheduler.load_state_dict(kept["scheduler"])
        self.loop.data.epoch, self.loop.data.step_in_epoch = kept["data"]["epoch"], kept["data"]["step_in_epoch"]
        if self.loop.tokens is not None:
            self.loop.tokens.restore(self.loop.state.num_input_tokens_seen)
        if self.config.checkpoint.restore_callback_states_from_checkpoint:
            self.loop.events.load_state_dict(kept["callbacks"])
        if saved.rank_state is not None:
            restore_rng(saved.rank_state["rng"])
            self.loop.meter.load_state_dict(saved.rank_state["meter"])
        if self.metrics:
            self.metrics.truncate(self.loop.state.step)

    def load_weights(self, wish: str) -> None:
        """A checkpoint's weights, to evaluate or predict with, and the step they are of."""
        path, warnings = store.find(wish, self.root)
        _warn(warnings)
        saved = store.load(path, verified=True)
        self.loop.engine.load_state(saved.reader, saved.state["engine"], weights_only=True)
        averages.end_training(self.loop.optimizer, loaded=True)
        self.restore(saved.state)
        self.loop.state.max_steps = self.loop.state.step
        if distributed.is_main():
            logger.info("the weights of %s", path)

    def restore(self, kept: dict[str, Any]) -> None:
        """The state as a checkpoint has it; what an older version did not keep stays."""
        for name in _KEPT:
            setattr(self.loop.state, name, kept["state"].get(name, getattr(self.loop.state, name)))

    def export(self) -> bool:
        """`model/`: the final weights, or with load_best_model_at_end those of the best evaluation that was saved. True
        when these are of another step, and now the model's.
        """
        other = False
        state, found = self.loop.state, self.loop.state.best_checkpoint
        averages.end_training(self.loop.optimizer)
        if self.config.checkpoint.load_best_model_at_end and state.best_step is not None:
            path = self.root / f"checkpoint-{found}"
            if found is not None and distributed.broadcast(path.is_dir()):
                store.verify(path)
                saved = store.load(path, verified=True)
                self.loop.engine.load_state(saved.reader, saved.state["engine"], weights_only=True)
                other = found != state.step
                if distributed.is_main():
                    logger.info("model/ holds the weights of step %d; %s was best at step %d: %r",
                                found, self.loop.best.metric, state.best_step, state.best_metric)  # fmt: skip
            elif distributed.is_main():
                logger.warning("no checkpoint of the best step %d: model/ holds the last weights", state.best_step)
        weights = self.loop.engine.weights()
        if weights is not None:
            safetensors = self.config.checkpoint.save_safetensors
            export_weights(self.loop.model, weights, self.directory / "model", safetensors=safetensors)
        store.prune(
            self.root,
            self.config.checkpoint.save_total_limit,
            [found] if found and self.config.checkpoint.load_best_model_at_end else [],
        )
        return other


def _warn(warnings: list[str]) -> None:
    if distributed.is_main():
        for warning in warnings:
            logger.warning(warning)
