"""Keeping what is slow to load from one pass to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.latency.devices import Runnable


class Kept:
    """The runnables used last, as many as have a number of MB of weights together.

    Passes go there and back, so that those used last are those needed next.

    Args:
        megabytes: weights to keep at most; nothing is kept when 0.
    """

    def __init__(self, megabytes: float) -> None:
        self._megabytes = megabytes
        self._runnables: OrderedDict[str, Runnable] = OrderedDict()

    def get(self, name: str, load: Callable[[], Runnable]) -> Runnable:
        """The runnable of that name, loaded unless it was kept."""
        runnable = self._runnables.pop(name, None) or load()
        if self._megabytes and runnable.weight_mb <= self._megabytes:
            self._runnables[name] = runnable
        while sum(kept.weight_mb for kept in self._runnables.values()) > self._megabytes:
            self._runnables.popitem(last=False)
        return runnable
