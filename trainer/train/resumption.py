"""checkpoint.resume_from_checkpoint: where a run starts from."""

from __future__ import annotations

import logging
from pathlib import Path

from .. import distributed
from ..checkpoint import store
from ..data.train_data import TrainData
from ..optim import averages
from ..run import directory as run_directory
from ..schema import Config
from .checkpointer import Checkpointer, warn

logger = logging.getLogger(__name__)


def resume(config: Config, checkpointer: Checkpointer, data: TrainData) -> None:
    """Load the checkpoint that the config names; `auto` starts from scratch where there is none (collective).

    A run that does not train loads its weights alone.
    """
    source = config.checkpoint.resume_from_checkpoint
    if source is None:
        return
    if not config.run.do_train:
        _load_weights(source, checkpointer)
        return
    if source == "auto":
        path = checkpointer.newest()
    else:
        path = Path(source)
        store.verify(path)
    if path is None:
        warn([f"checkpoint.resume_from_checkpoint=auto: no checkpoint in {checkpointer.directory}: starting afresh"])
        if checkpointer.metrics:
            checkpointer.metrics.truncate(0)
        return
    checkpointer.load(path)
    if config.checkpoint.ignore_data_skip:
        data.step_in_epoch = 0
    if distributed.is_main():
        logger.info("resumed from %s", path)
        run_directory.resumed(checkpointer.directory, step=checkpointer.state.step, checkpoint=str(path))


def _load_weights(source: str, checkpointer: Checkpointer) -> None:
    path, warnings = store.find(source, checkpointer.root)
    warn(warnings)
    saved, state = checkpointer.load_weights(path), checkpointer.state
    averages.end_training(checkpointer.optimizer, loaded=True)
    state.load_state_dict(saved["state"])
    state.max_steps = state.step
    if distributed.is_main():
        logger.info("loaded the weights of %s", path)
