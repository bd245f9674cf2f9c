"""`cluster`: where runs go that do not start on this machine."""

from __future__ import annotations

from typing import Protocol

from ..launch.prepared import Prepared


class Cluster(Protocol):
    """What `cluster._target_` names, built with the config's node."""

    def submit(self, runs: list[Prepared]) -> list[str]:
        """Hand over runs that are checked and have their directories; the jobs' ids, in the same order.

        A run travels as a pickle, so no file of the config is read again. The job calls `launch.start.start` with it,
        or `launch.torchrun.join` when it is one of several ranks.

        Raises:
            RuntimeError: the cluster takes none of them; the message says why.
        """
        ...
