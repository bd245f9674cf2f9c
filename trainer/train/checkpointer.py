"""The run's checkpoints, and `model/`."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from .. import distributed
from ..checkpoint import store
from ..checkpoint.background import Background
from ..checkpoint.export import export_weights
from ..checkpoint.shard import Shard
from ..data.fingerprint import Fingerprint, compare
from ..errors import CheckpointError, ConfigError, Problem
from ..events import Events
from ..logging.jsonl import MetricsFile
from ..optim import averages
from ..parallel.engine import Engine
from ..schema import Config
from ..schema.checkpoint import Checkpoint
from ..schema.drift import covers
from ..state import Control, State
from .config_drift import ConfigDrift
from .tokens import TokenCounter

TRAIN_DATASET = "data.train_dataset"
logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """A part whose state is JSON-able."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


@dataclass(kw_only=True, slots=True)
class Checkpointer:
    """Saves, loads and exports the parts of a run. All methods are collective.

    A part of ``parts`` is equal on all ranks and saved once, in state.json under its name; a part of ``rank_parts`` is
    saved by each rank, in rank-<r>.json, and is loaded after the others, by as many ranks. The engine saves tensors.
    """

    node: Checkpoint
    directory: Path
    """The run's."""
    engine: Engine
    model: nn.Module
    optimizer: Optimizer
    state: State
    control: Control
    events: Events
    parts: dict[str, Stateful]
    rank_parts: dict[str, Stateful]
    tokens: TokenCounter | None
    metrics: MetricsFile | None
    """On rank 0, to drop what was written after the checkpoint that is loaded."""
    config: Config
    fingerprint: Fingerprint | None
    """Of the training data."""
    background: Background[Path] | None = None
    """With checkpoint.async_save."""
    root: Path = field(init=False)
    _state_saved: State = field(init=False)
    """The state at the save that ``background`` writes."""
    drift: ConfigDrift = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.directory / "checkpoints"
        self.drift = ConfigDrift(self.config, self.optimizer, self.parts["scheduler"])

    def save(self) -> None:
        """Save a checkpoint of this step, then delete the oldest beyond checkpoint.save_total_limit."""
        if self.tokens is not None:
            self.state.num_input_tokens_seen = self.tokens.total()
        with averages.average_weights(self.optimizer):
            self._save()

    def _save(self) -> None:
        state, engine_state = self.state, self.engine.state()
        shards, meta = engine_state.shards, engine_state.meta
        if self.node.save_only_model:
            shards, meta = [shard for shard in shards if shard.name.startswith("model/")], {}
        if state.best_step == state.step:
            state.best_checkpoint = state.step
        write = partial(
            self._write,
            state.step,
            state={
                "state": state.state_dict(),
                "engine": meta,
                **{name: deepcopy(part.state_dict()) for name, part in self.parts.items()},
                "only_model": self.node.save_only_model,
                "config": self.drift.values,
                "fingerprint": self.fingerprint,
            },
            rank_state={name: part.state_dict() for name, part in self.rank_parts.items()},
            protect=[state.step, *filter(None, [state.best_checkpoint])],
        )
        if self.background is None:
            self.events.on_save(state, self.control, write(shards=shards))
        else:
            self.finish()
            copies = [replace(shard, data=shard.data.to("cpu", copy=True)) for shard in shards]
            self.background.start(partial(write, shards=copies))
            self._state_saved = replace(state)

    def _write(
        self, step: int, *, shards: list[Shard], state: dict[str, Any], rank_state: dict[str, Any], protect: list[int]
    ) -> Path:
        path = store.save(self.root, step, shards=shards, state=state, rank_state=rank_state)
        store.prune(self.root, self.node.save_total_limit, protect)
        return path

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any, and call the callbacks with the state of its step."""
        path = self.background.wait() if self.background else None
        if path is not None:
            with averages.average_weights(self.optimizer):
                self.events.on_save(self._state_saved, self.control, path)

    def newest(self) -> Path | None:
        """The newest valid checkpoint of this run; warns of damaged ones."""
        path, warnings = store.newest(self.root)
        warn(warnings)
        return path

    def rollback(self) -> None:
        """Load the newest checkpoint, but leave the data where it is: after the batch that went wrong."""
        self.finish()
        path = self.newest()
        if path is None:
            raise RuntimeError(
                "train.nan_policy=rollback found no checkpoint yet; fix: a smaller checkpoint.save_steps"
            )
        self.load(path, data=False)

    def load(self, path: Path, *, data: bool = True) -> None:
        """Restore everything as it was at the end of the checkpoint's step; ``data=False``: but the place in the data.

        Keys of the config that differ from the checkpoint's take effect.

        Raises:
            CheckpointError: the checkpoint cannot be resumed from.
            ConfigError: it was written with other training data, which checkpoint.allow_drift does not name.
        """
        saved = store.load(path, verified=True)
        if saved.state["only_model"]:
            raise CheckpointError(
                f"{path} was saved with checkpoint.save_only_model=true: it has weights, but no state to resume from"
            )
        self._check_data(path, saved.state.get("fingerprint"))
        changed = self.drift.since(saved.state.get("config"))
        self.engine.load_state(saved.reader, self.drift.engine_state(saved.state["engine"], changed))
        averages.train_weights(self.optimizer)
        self.state.load_state_dict(saved.state["state"])
        for name, part in self.parts.items():
            wanted = {"data": data, "callbacks": self.node.restore_callback_states_from_checkpoint}
            if not wanted.get(name, True) or name not in saved.state:  # older versions had no meter there
                continue
            if name == "scheduler" and changed:
                self.drift.restore_schedule(saved.state[name], changed, self.state)
            elif name == "data":
                part.load_state_dict(self.drift.place(saved.state[name], part, changed))
            else:
                part.load_state_dict(saved.state[name])
        if self.tokens is not None:
            self.tokens.restore(self.state.num_input_tokens_seen)
        if saved.rank_state is not None:
            for name, part in self.rank_parts.items():
                if name == "rng" and "run.seed" in changed:
                    continue
                part.load_state_dict(saved.rank_state[name])
        if self.metrics:
            self.metrics.truncate(self.state.step)

    def _check_data(self, path: Path, saved: Fingerprint | None) -> None:
        allowed = self.node.allow_drift
        if saved is None or covers(allowed, TRAIN_DATASET) or any(covers([TRAIN_DATASET], key) for key in allowed):
            return
        differences = distributed.broadcast(compare(saved, self.fingerprint or saved))
        if differences:
            problem = Problem(
                key=TRAIN_DATASET,
                origin=str(path),
                what=f"the checkpoint was written with other data: {'; '.join(differences)}",
                fix=f"checkpoint.allow_drift=[{','.join([*self.node.allow_drift, TRAIN_DATASET])}]",
            )
            raise ConfigError([problem])

    def load_weights(self, path: Path) -> dict[str, Any]:
        """Load a verified checkpoint's weights alone, to evaluate or export; returns its state.json."""
        saved = store.load(path, verified=True)
        self.engine.load_state(saved.reader, saved.state["engine"], weights_only=True)
        return saved.state

    def export(self) -> bool:
        """Write `model/`: the last weights, or with load_best_model_at_end those of the best evaluation that was saved.

        True if these are of another step, and now the model's.
        """
        averages.end_training(self.optimizer)
        best = self.node.load_best_model_at_end and self.state.best_step is not None
        other = best and self._load_best()
        weights = self.engine.weights()
        if weights is not None:
            export_weights(self.model, weights, self.directory / "model", safetensors=self.node.save_safetensors)
        found = self.state.best_checkpoint if self.node.load_best_model_at_end else None
        store.prune(self.root, self.node.save_total_limit, [found] if found else [])
        return other

    def _load_best(self) -> bool:
        """Load the weights of the best step, if they were saved; True if they are of another step than the current."""
        state, found = self.state, self.state.best_checkpoint
        path = self.root / f"checkpoint-{found}"
        if found is None or not distributed.broadcast(path.is_dir()):
            warn([f"no checkpoint of the best step {state.best_step}: model/ has the last weights"])
            return False
        store.verify(path)
        self.load_weights(path)
        if distributed.is_main():
            logger.info("model/ has the weights of step %d; step %d was the best, with %r",
                        found, state.best_step, state.best_metric)  # fmt: skip
        return found != state.step


def warn(messages: list[str]) -> None:
    """Log warnings once, on rank 0."""
    if distributed.is_main():
        for message in messages:
            logger.warning(message)
