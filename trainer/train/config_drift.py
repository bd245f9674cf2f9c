"""The keys of a config that differ from the checkpoint's, and how they take effect when it is loaded."""

from __future__ import annotations

import logging
from copy import deepcopy
from inspect import signature
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .. import distributed
from ..errors import show
from ..run import directory as run_directory
from ..scheduler.schedule import Schedule, as_number, set_rate
from ..schema import Config
from ..schema.drift import Change, Values, changes, covers
from ..secrets import mask
from ..state import State

SWITCHES = ("foreach", "fused")
"""Options that choose a kernel, never a result: always the config's."""
COUNTERS = ("last_epoch", "_step_count", "best", "num_bad_epochs", "cooldown_counter", "bad", "good", "warmup_counter",
            "decreases_left", "window")  # fmt: skip
"""What a scheduler has counted: a new definition goes on from it."""
RATE = ("optim.learning_rate", "optim.lr", "optim.optim_args", "optim.optim_args.lr")
BATCH = ("train.per_device_train_batch_size", "train.gradient_accumulation_steps")
logger = logging.getLogger(__name__)


class ConfigDrift:
    """A run's config beside its checkpoints'. Made before a checkpoint is loaded, while optimizer and scheduler are as
    the config says."""

    def __init__(self, config: Config, optimizer: Optimizer, scheduler: Any) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        self.allowed = config.checkpoint.allow_drift
        self.values: Values = run_directory.decisive_values(config)
        """What decides the training, by full key: what a checkpoint keeps of the config."""
        self._tree = mask(run_directory.plain(config))
        self._groups = [
            {key: as_number(v) if key == "lr" else v for key, v in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self._schedule = deepcopy(scheduler.state_dict())

    def since(self, before: Values | None) -> dict[str, Change | None]:
        """The keys that differ from a checkpoint's, and how; of one without its config, those that are allowed to."""
        if before is None:
            return dict.fromkeys(self.allowed)
        found = {change.key: change for change in changes(before, self._tree)}
        if found and distributed.is_main():
            words = ", ".join(f"{c.key} {show(c.before)} -> {show(c.now)}" for c in found.values())
            logger.info("taken from the config, not from the checkpoint: %s", words)
        return dict(found)

    def engine_state(self, saved: dict[str, Any], changed: dict[str, Change | None]) -> dict[str, Any]:
        """An engine's saved state with the optimizer's options as the config has them, where it differs."""
        accepted = signature(type(self.optimizer)).parameters
        differs = _touches(changed, "optim")
        groups = []
        for own, group in zip(self._groups, saved["param_groups"], strict=False):
            names = [
                name
                for name, value in own.items()
                if name in group and not isinstance(value, Tensor)
                if name in SWITCHES or (differs and name != "lr" and (name in accepted or name == "initial_lr"))
            ]
            groups.append(group | {name: own[name] for name in names})
        return saved | {"param_groups": groups + saved["param_groups"][len(groups) :]}

    def place(self, saved: dict[str, Any], data: Any, changed: dict[str, Change | None]) -> dict[str, Any]:
        """The saved place in the data; in updates of another size, the start of the update that its sample is in."""
        size = data.state_dict()["update_size"]
        if size == saved["update_size"] or not (any(key in changed for key in BATCH) or covers(self.allowed, BATCH[0])):
            return saved
        return saved | {"step_in_epoch": saved["step_in_epoch"] * saved["update_size"] // size, "update_size": size}

    def restore_schedule(self, saved: dict[str, Any], changed: dict[str, Change | None], state: State) -> None:
        """Go on with the schedule as the config defines it, at the step that is reached."""
        scheduler, rates = self.scheduler, [as_number(group["lr"]) for group in self.optimizer.param_groups]
        new_rate = any(key in changed for key in RATE)
        if isinstance(scheduler, Schedule):
            step = saved.get("last_epoch", state.step) if "base_lrs" in saved else state.step
            scheduler.load_state_dict(self._schedule | {"last_epoch": step})
            how = f"{self._name()} goes on at step {step} of {state.max_steps}"
        elif _touches(changed, "scheduler") or saved.keys() != self._schedule.keys():
            scheduler.load_state_dict(
                self._schedule | {k: saved[k] for k in COUNTERS if k in saved and k in self._schedule}
            )
            self._set_rates([g["lr"] for g in self._groups] if new_rate else rates)
            how = f"{self._name()} goes on with its new definition"
        else:
            bases = saved.get("base_lrs")
            scheduler.load_state_dict(saved | ({"base_lrs": self._schedule["base_lrs"]} if bases else {}))
            if new_rate and bases:  # a schedule of torch's, which may go on from the rate that it left
                ratios = [as_number(new) / old for new, old in zip(self._schedule["base_lrs"], bases, strict=True)]
                self._set_rates([rate * ratio for rate, ratio in zip(rates, ratios, strict=True)])
            elif new_rate:
                self._set_rates([g["lr"] for g in self._groups])
            how = f"{self._name()} goes on from what it has counted"
        if distributed.is_main():
            rate = as_number(self.optimizer.param_groups[0]["lr"])
            logger.info("the schedule: %s, learning rate %.6g (the checkpoint's: %.6g)", how, rate, rates[0])

    def _set_rates(self, rates: list[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)

    def _name(self) -> str:
        return str(self._tree["scheduler"]["_target_"]).rpartition(".")[2]


def _touches(changed: dict[str, Change | None], section: str) -> bool:
    return any(key == section or key.startswith(section + ".") for key in changed)
