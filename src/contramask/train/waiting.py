"""Says, once a training, that it waits for its data, and what to do about it."""

import logging
from typing import Any

log = logging.getLogger(__name__)

#: Share of the time spent waiting for batches above which it is worth a line.
TOO_LONG = 0.02
#: Seconds of training before which nobody gains by advice.
WORTH_ADVICE = 10.0


class WaitingAdvice:
    """Watches the share of each log interval that was spent waiting; `source.advice` says why.

    A source may tolerate more (`source.tolerated_wait`): where the training's own processor makes
    the views, the wait is work that no setting takes away. The first interval is passed over: it
    starts the workers and reads the first files. A training that is over after `WORTH_ADVICE`
    seconds gets none.
    """

    def __init__(self, name: str, source: Any) -> None:
        self._name, self._source = name, source
        self._most = float(getattr(source, "tolerated_wait", TOO_LONG))
        self._seen, self._seconds, self._said = 0, 0.0, False

    def check(self, share: float, seconds: float) -> None:
        """Take one interval's share, 0 to 1, and its length; log at most once."""
        self._seen += 1
        self._seconds += seconds
        if self._said or self._seen == 1 or share <= self._most or self._seconds < WORTH_ADVICE:
            return
        self._said = True
        what = getattr(self._source, "advice", "read from a faster disk, or use smaller images")
        log.warning(
            "%s: %.0f%% of the time went into waiting for data (more than %.0f%%): %s",
            *(self._name, 100 * share, 100 * self._most, what),
        )
