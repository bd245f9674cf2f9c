"""Every engine computes what one process does: 20 clipped, accumulated, scheduled updates. Makes docs/engines.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.updates import Logged, run_each
from tests.ranks import run_ranks
from tests.tiny import Even
from trainer.schema.parallel import DDP, FSDP, DeepSpeed, Mesh, OffloadDevice, Single, WrapPolicy
from trainer.schema.precision import Precision

STEPS = 20
PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
T: dict[str, Any] = {"ddp_timeout": 120}
CPU_STATES: dict[str, Any] = {"offload_optimizer": OffloadDevice.cpu}
ENGINES: dict[str, Any] = {
    "ddp": DDP(**T),
    "fsdp": FSDP(**T),
    "fsdp_grad_op": FSDP(reshard_after_forward=False, **T),
    "fsdp, SIZE_BASED_WRAP": FSDP(auto_wrap_policy=WrapPolicy.SIZE_BASED_WRAP, min_num_params=3000, **T),
    "fsdp, NO_WRAP": FSDP(auto_wrap_policy=WrapPolicy.NO_WRAP, **T),
    "fsdp, cpu_ram_efficient_loading": FSDP(cpu_ram_efficient_loading=True, **T),
    "fsdp_hybrid, 2 copies": Mesh(dp_replicate_size=2, **T),
    "tp": Mesh(tp_size=None, tp_plan=Even.PLAN, **T),
    "mesh, tp_size=2": Mesh(tp_size=2, tp_plan=Even.PLAN, cpu_ram_efficient_loading=True, **T),
    "mesh, tp_size=2, 2 copies": Mesh(dp_replicate_size=2, tp_size=2, tp_plan=Even.PLAN, **T),
    "zero0": DeepSpeed(zero_stage=0, **T),
    "zero1": DeepSpeed(zero_stage=1, **T),
    "zero2": DeepSpeed(zero_stage=2, **T),
    "zero3": DeepSpeed(zero_stage=3, **T),
    "zero2_offload": DeepSpeed(zero_stage=2, **CPU_STATES, **T),
    "zero3_offload": DeepSpeed(zero_stage=3, offload_param=OffloadDevice.cpu, **CPU_STATES, **T),
}
NEEDS = {"fsdp_hybrid, 2 copies": 2, "tp": 2, "mesh, tp_size=2": 4, "mesh, tp_size=2, 2 copies": 4}
"""Ranks that a mesh takes at least; what repeats another row at 2 is left to 4."""
BOUND = {"fp32": (1e-5, 1e-5), "bf16": (0.02, 0.08)}
"""Largest difference of a loss, and of a gradient norm."""


def furthest(logged: list[Logged], reference: list[Logged]) -> tuple[float, float]:
    loss = max(abs(mine.loss - theirs.loss) for mine, theirs in zip(logged, reference, strict=True))
    norm = max(abs(mine.grad_norm - theirs.grad_norm) for mine, theirs in zip(logged, reference, strict=True))
    return loss, norm


@pytest.fixture(scope="module")
def reference() -> list[Logged]:
    """A plain model in one process, in fp32."""
    (found,) = run_ranks(run_each, {"single": Single()}, Precision(), STEPS, world_size=1)
    logged: list[Logged] = found["single"]
    assert len(logged) == STEPS
    assert all(out.grad_norm > 0.3 for out in logged[:10]), "clipping must bite"
    assert logged[-1].loss < logged[0].loss / 2, "it must learn"
    return logged


DIFFERENCES: dict[tuple[str, str, int], tuple[float, float]] = {}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_engines_agree(ranks: int, precision: str, reference: list[Logged]) -> None:
    nodes = {name: node for name, node in ENGINES.items() if NEEDS.get(name, 1) <= ranks}
    found = run_ranks(run_each, nodes, Precision(bf16=precision == "bf16"), STEPS, world_size=ranks, timeout=400)
    assert all(other == found[0] for other in found), "every rank reports the same"
    for name, logged in found[0].items():
        DIFFERENCES[name, precision, ranks] = furthest(logged, reference)
    loss, norm = BOUND[precision]
    worse = {k: v for k, v in DIFFERENCES.items() if k[1:] == (precision, ranks) and (v[0] > loss or v[1] > norm)}
    assert not worse
    if os.environ.get("WRITE_DOCS"):
        if len({key[1:] for key in DIFFERENCES}) == 6:  # the last of the six, in one process
            PAGE.parent.mkdir(exist_ok=True)
            PAGE.write_text(page(DIFFERENCES))
        return
    # each case holds its own column against the page, so that workers may share the cases out
    cells = {name: " / ".join(map(rounded, DIFFERENCES[name, precision, ranks])) for name in nodes}
    assert written(precision, ranks) == {name: cells.get(name, "-") for name in ENGINES}


def page(differences: dict[tuple[str, str, int], tuple[float, float]]) -> str:
    """The table. One figure stands for all up to it, so that another machine's rounding writes the same page."""
    head = [f"{precision}, {ranks}" for precision in BOUND for ranks in (1, 2, 4)]
    lines = [
        "# Engines agree",
        "",
        f"The largest difference over {STEPS} updates (clipped, accumulated, scheduled) from one process in fp32: of a",
        "loss / of the gradient's norm, by precision and number of CPU ranks (`-`: needs more). Losses start at 2.3,",
        "norms at 5.8. Written by `WRITE_DOCS=1 pytest tests/parallel/test_agreement.py`, which compares it otherwise.",
        "",
        "| parallel | " + " | ".join(head) + " |",
        "|---|" + "---|" * len(head),
    ]
    for name in ENGINES:
        cells = [differences.get((name, precision, ranks)) for precision in BOUND for ranks in (1, 2, 4)]
        words = ["-" if cell is None else " / ".join(rounded(x) for x in cell) for cell in cells]
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    return "\n".join([*lines, ""])


def rounded(difference: float) -> str:
    """The next of these bounds."""
    return next((f"< {bound:g}" for bound in (1e-5, 0.02, 0.08) if difference < bound), f"{difference:.1g}")


def written(precision: str, ranks: int) -> dict[str, str]:
    """The page's column for a precision and a number of ranks: parallel -> cell."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if "|" in line]
    place = rows[0].index(f"{precision}, {ranks}")
    return {row[0]: row[place] for row in rows[2:]}
