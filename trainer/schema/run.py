"""`run`: what a run is called, where it writes, and what makes it repeatable."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import number


@dataclass(kw_only=True, slots=True)
class Run:
    """Identity, place and seed of a run."""

    output_dir: str = "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}"
    """Directory of the run (HF: output_dir). `hydra.run.dir` defaults to it. Never shared: a taken default gets a number."""
    run_name: str | None = None
    """Name handed to the trackers (HF: run_name). Default: the last parts of the run's directory."""
    project: str = "trainer"
    """Project handed to the trackers that group runs by project (HF: project)."""
    seed: int = number(42, minimum=0)
    """Seeds model initialisation, data order and dropout (HF: seed)."""
    full_determinism: bool = False
    """torch.use_deterministic_algorithms and cuBLAS's deterministic workspace (HF: full_determinism). Slower on GPUs."""
    use_cpu: bool = False
    """Train on the CPU although accelerators are visible (HF: use_cpu)."""
