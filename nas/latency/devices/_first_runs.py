"""The first runs of what was loaded, in which a runtime is given its memory by the system, page by page.

They are not what a network takes: on OpenVINO and two cores, with first runs among the samples, SD-v1.5's rows at 64x64
were up to 11 % longer, one shortcut's half as long again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from nas.latency.devices._device import Runnable

    Loaded = TypeVar("Loaded", bound=Runnable)


def after_first_runs(runnable: Loaded, instances: int, *, each: int = 1) -> Loaded:
    """What was loaded, once every instance that it runs in turn has run `each` times."""
    for _ in range(each * instances):
        runnable.run_ms()
    return runnable
