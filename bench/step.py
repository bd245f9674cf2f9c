"""Microseconds per step of a tiny MLP: ours beside a hand-written loop and the loops that others wrote.

All sides run in turns in one process; the table shows medians over the rounds, and ratios taken within a round.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from parts import BATCH, CLOCK, LEARNING_RATE, LOG_EVERY, SETTINGS, STEPS, Net, dataset, groups, linear, shuffled
from rich.console import Console
from rich.table import Table
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

ROUNDS = 9


def ours(directory: Path) -> None:
    """What `python train.py` runs once the command line is composed."""
    from trainer.config.composer import compose
    from trainer.run import directory as run_directory
    from trainer.train.session import run

    overrides = [*SETTINGS, f"train.max_steps={STEPS}"]
    composition = compose(overrides)
    assert composition.config is not None, composition.problems
    run_directory.begin(directory, config=composition.config, overrides=overrides, argv=sys.argv)
    run(composition.config, directory)


def hand_written(directory: Path) -> None:
    """The same optimizer arguments and batched fetch, and nothing that could be left out."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(groups(model), lr=LEARNING_RATE, fused=True)
    scheduler = linear(optimizer)
    total = torch.zeros(())
    with (directory / "metrics.jsonl").open("w") as file:
        for step, (x, y) in enumerate(shuffled(dataset()), 1):
            loss = cross_entropy(model(x), y)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            total += loss.detach()
            if step % LOG_EVERY == 0:
                print(json.dumps({"step": step, "loss": total.item() / LOG_EVERY, "grad_norm": norm.item()}), file=file)
                total.zero_()


def naive(directory: Path) -> None:
    """What a tutorial writes: DataLoader(TensorDataset) and AdamW as they come."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    scheduler = linear(optimizer)
    loader = DataLoader(dataset(), batch_size=BATCH, shuffle=True)
    step = 0
    with (directory / "log").open("w") as file:
        while step < STEPS:
            for x, y in loader:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                step += 1
                if step % LOG_EVERY == 0:
                    print(step, loss.item(), file=file)
                if step == STEPS:
                    break


def fabric(directory: Path) -> None:
    from lightning.fabric import Fabric

    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    bare = Net()
    model, optimizer = fabric.setup(bare, torch.optim.AdamW(groups(bare), lr=LEARNING_RATE, fused=True))
    scheduler = linear(optimizer.optimizer)
    loader = fabric.setup_dataloaders(DataLoader(dataset(), batch_size=BATCH, shuffle=True))
    step = 0
    with (directory / "log").open("w") as file:
        while step < STEPS:
            for x, y in loader:
                loss = cross_entropy(model(x), y)
                fabric.backward(loss)
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                step += 1
                if step % LOG_EVERY == 0:
                    print(step, loss.item(), file=file)
                if step == STEPS:
                    break


def lightning(directory: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(groups(self.net), lr=LEARNING_RATE, fused=True)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": linear(optimizer), "interval": "step"}}

    lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS, max_epochs=-1, log_every_n_steps=LOG_EVERY,
        gradient_clip_val=1.0, enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        logger=lightning.pytorch.loggers.CSVLogger(directory), default_root_dir=directory,
    ).fit(Module(), DataLoader(dataset(), batch_size=BATCH, shuffle=True))  # fmt: skip


class DictNet(Net):
    """As transformers' Trainer wants it: keywords in, the loss out."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


def transformers(directory: Path) -> None:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(directory), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=LEARNING_RATE,
        optim="adamw_torch_fused", lr_scheduler_type="linear", max_grad_norm=1.0, logging_steps=LOG_EVERY,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    items = [{"x": x, "labels": y} for x, y in zip(*dataset().tensors, strict=True)]
    Trainer(model=DictNet(), args=arguments, train_dataset=items).train()


SIDES: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "hand-written": (hand_written, None),
    "ours": (ours, None),
    "naive": (naive, None),
    "Fabric": (fabric, "lightning"),
    "Lightning": (lightning, "lightning"),
    "HF Trainer": (transformers, "transformers"),
}


def measure(side: Callable[[Path], None]) -> float:
    CLOCK.reset()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        side(Path(directory))
    return CLOCK.microseconds()


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sides: dict[str, Callable[[Path], None]] = {}
    for name, (side, package) in SIDES.items():
        if package is None or importlib.util.find_spec(package):
            sides[name] = side
        else:
            print(f"{name}: {package} is not installed, left out")
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(measure(side))

    def ratio(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))

    table = Table(
        title=f"A step of a 64-64-10 MLP, batch {BATCH}: medians of {ROUNDS} interleaved rounds", min_width=70
    )
    for column in ("", "us per step", "fastest", "of hand-written", "of naive"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in times.items():
        row = f"{statistics.median(values):.1f}", f"{min(values):.1f}"
        table.add_row(name, *row, f"{ratio(name, 'hand-written'):.3f}", f"{ratio(name, 'naive'):.3f}")
    Console().print(table)
    bars = [("ours / hand-written", ratio("ours", "hand-written"), 1.05), ("ours / naive", ratio("ours", "naive"), 1.0)]
    for what, value, bar in bars:
        print(f"{what}: {value:.3f}, bar {bar}: {'met' if value <= bar else 'NOT met'}")


if __name__ == "__main__":
    main()
