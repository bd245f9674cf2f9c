"""Every option of every group composes and converts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.composer import Composition
from trainer.config.sources import conf_directory
from trainer.schema.tree import slots

CONF = conf_directory()
OPTIONS = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("*/*.yaml"))
NEEDS = {
    "parallel/zero_infinity": ["parallel.nvme_path=/local_nvme"],
    "scheduler/cosine_with_min_lr": ["scheduler.min_lr_rate=0.1"],
    "scheduler/cosine_warmup_with_min_lr": ["scheduler.min_lr_rate=0.1"],
    "scheduler/greedy": ["scheduler.min_lr=0"],
    "scheduler/warmup_stable_decay": ["scheduler.num_decay_steps=10"],
}
"""What an option cannot do without."""

REFUSED = {"parallel/fsdp_offload": "needs a GPU"}
"""What does not run on every machine, or not yet."""

OPTIONAL = {"data.predict_dataset", "cluster"}
"""Slots that the options leave empty."""


@pytest.mark.parametrize("option", OPTIONS)
def test_option(compose: Callable[..., Composition], option: str) -> None:
    group, name = option.split("/")
    composition = compose(f"{group}={name}", *NEEDS.get(option, ()))
    problems = [p for p in composition.problems if "which is not installed" not in str(p)]
    if option in REFUSED:
        assert problems
        problems = [p for p in problems if REFUSED[option] not in str(p)]
    assert not problems, problems
    assert composition.config
    for slot in slots():
        node = composition.config
        for part in slot.split("."):
            node = getattr(node, part)
        assert node is not None or slot in OPTIONAL, slot


@pytest.mark.parametrize("option", OPTIONS)
def test_option_files_are_short_and_say_what_they_are(option: str) -> None:
    text = (Path(CONF) / f"{option}.yaml").read_text()
    assert text.startswith("#")
    content = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(content) <= (30 if option.startswith(("experiment", "cluster", "sweep")) else 8)
