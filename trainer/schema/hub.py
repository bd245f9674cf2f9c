"""`hub`: whether, when and where a run's weights go to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Choice, secret


class HubStrategy(Choice):
    """HF: HubStrategy. In the repository's root: the weights, a model card and config.yaml.

    end: once, when the run completed. every_save: also at each save. checkpoint: as every_save, and the newest
    checkpoint as `last-checkpoint/`. all_checkpoints: as every_save, and each checkpoint under its own name.
    """

    end = "end"
    every_save = "every_save"
    checkpoint = "checkpoint"
    all_checkpoints = "all_checkpoints"


@dataclass(kw_only=True, slots=True)
class Hub:
    """Uploads run in the background and never end a run: one warning says what failed."""

    push_to_hub: bool = False
    """Upload the weights to the Hub; needs a token (HF: push_to_hub)."""
    hub_model_id: str | None = None
    """`user/name` or `name`; None: run.run_name, else the last parts of the run's directory (HF: hub_model_id, None:
    the directory's name)."""
    hub_strategy: HubStrategy = HubStrategy.every_save
    """What is uploaded and when (HF: hub_strategy)."""
    hub_token: str | None = secret("HF_TOKEN")
    """None: HF_TOKEN, else what `hf auth login` stored. It is written to no file of the run (HF: hub_token)."""
    hub_private_repo: bool | None = None
    """Whether a repository made for the run is private; None: the account's default (HF: hub_private_repo)."""
    hub_always_push: bool = False
    """Upload a save although the one before it is still on its way (HF: hub_always_push)."""
    hub_revision: str | None = None
    """Branch to upload to, made if it is not there; None: main (HF: hub_revision, which must exist)."""
