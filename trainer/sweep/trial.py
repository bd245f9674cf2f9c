"""Entry point of a trial's process."""

from __future__ import annotations

import pickle
import sys

from ..cli import Prepared, start


def main() -> int:
    """Run the trial that the sweep wrote to stdin."""
    payload = pickle.load(sys.stdin.buffer)
    return start(Prepared(resumed=False, **payload))
