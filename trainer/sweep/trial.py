"""Entry point of a trial's process."""

from __future__ import annotations

import pickle
import sys

from ..cli.train import Prepared, guarded, start


def main() -> int:
    """Run the trial that the sweep wrote to stdin."""
    payload = pickle.load(sys.stdin.buffer)
    return guarded(lambda: start(Prepared(resumed=False, **payload)))
