"""`python -m trainer train`: the same as `python train.py`."""

from __future__ import annotations

from ..cli import main

__all__ = ["main"]
