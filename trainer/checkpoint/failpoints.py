"""Named places where a test can make a run fail. Nothing happens unless TRAINER_FAILPOINTS is set.

    TRAINER_FAILPOINTS="checkpoint.after_shard@rank1#1=kill9,loop.loss#5=nan"

kills rank 1 the first time it passes checkpoint.after_shard, and every rank's fifth loss becomes nan. Without ``@rank``
a rule holds on every rank, without ``#`` every time. Actions: the signals below, ``raise`` (RuntimeError), ``enospc``
(OSError), ``exit``, ``sleep`` (an hour: a hung rank) or ``sleep:SECONDS``; any other word is returned to the place.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections import Counter

_SIGNALS = {"kill9": signal.SIGKILL, "sigterm": signal.SIGTERM, "sigint": signal.SIGINT, "sigstop": signal.SIGSTOP}
_RULE = re.compile(r"(?P<place>[\w.]+)(@rank(?P<rank>\d+))?(#(?P<time>\d+))?=(?P<action>\w+)(:(?P<argument>[\d.]+))?")
passes: Counter[str] = Counter()
"""How often this process has passed each place since TRAINER_FAILPOINTS was set."""


def failpoint(place: str) -> str | None:
    """Pass a named place. Returns the rule's action if it is not one of the common ones."""
    specification = os.environ.get("TRAINER_FAILPOINTS")
    if not specification:
        return None
    passes[place] += 1
    for text in specification.split(","):
        rule = _RULE.fullmatch(text.strip())
        if rule is None:
            raise ValueError(f"TRAINER_FAILPOINTS: {text!r} is not PLACE[@rankN][#TIME]=ACTION")
        here = rule["place"] == place and rule["rank"] in (None, os.environ.get("RANK", "0"))
        if here and rule["time"] in (None, str(passes[place])):
            return _act(place, rule["action"], float(rule["argument"] or 3600))
    return None


def _act(place: str, action: str, seconds: float) -> str | None:
    if action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[action])
    elif action == "raise":
        raise RuntimeError(f"failpoint {place}")
    elif action == "enospc":
        raise OSError(errno.ENOSPC, f"No space left on device (failpoint {place})")
    elif action == "exit":
        os._exit(13)
    elif action == "sleep":
        time.sleep(seconds)
    else:
        return action
    return None
