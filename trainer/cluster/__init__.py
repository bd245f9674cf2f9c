"""Where a run starts when not by this command on this machine: `cluster`."""

from __future__ import annotations

from typing import Protocol

from ..cli.train import Prepared


class Cluster(Protocol):
    """What `cluster._target_` names, built with the config's node."""

    def submit(self, runs: list[Prepared]) -> list[str]:
        """Hand over runs that are checked and have their directories; the jobs' ids, in the same order.

        Each run is a pickle of what was composed now: no file of the config is read again. On the cluster
        `cli.start` is called with it.

        Raises:
            RuntimeError: the cluster takes none of them; the message says why.
        """
        ...
