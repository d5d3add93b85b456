"""The protocol that every device follows; `nas.latency.testing` checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nas.errors import DeviceError
from nas.workload import PRECISIONS

if TYPE_CHECKING:
    import torch
    from torch import nn


class Runnable(Protocol):
    """A module with its inputs, ready on a device.

    Attributes:
        weight_mb: weights of all instances together.
    """

    weight_mb: float

    def run_ms(self) -> float:
        """Execute and wait for the end; the time of one execution in ms.

        Once, or every instance once where a runtime queues what it is given; then it is their mean.
        """
        ...

    def output(self) -> torch.Tensor:
        """What the runtime computes: the first tensor that the module gives, on torch's CPU device, in float32."""
        ...


@runtime_checkable
class RunnableInParts(Runnable, Protocol):
    """A runnable that can say how the time of an execution divides: parts of long ones are judged one by one."""

    def run_parts_ms(self) -> tuple[float, ...]:
        """Execute once; the times of consecutive parts, the same ones every time, which add up to the whole."""
        ...


class Device(Protocol):
    """A runtime on a piece of hardware.

    Attributes:
        name: for `get_device` and for the table, such as "torch-cpu".
        home: the torch device on which modules for it are best made.
        working_set_mb: weights that it takes to empty the caches. Inside a network a block finds its weights in memory,
            because the other blocks ran since it ran last; timed alone in a loop it would find them in cache. So a
            block smaller than this is timed as several instances with weights of their own, run in turn.
        min_instances: instances to ask for even of large blocks (queues that run ahead need a few to fill).
        bundle_mb: where a call of a program takes time that it does not take in a network, which is called once for all
            of its blocks: blocks are timed together in one program as well, as many as have this many MB of weights
            and inputs, and the difference counts. 0 where every block is called in the network, too.
        keep_mb: weights of loaded modules that may be kept between passes, where loading (exporting, compiling) is
            slow; 0 where it is not.
        usual_precision: what networks are run in there, and tables are made for unless somebody says otherwise.
    """

    name: str
    home: str
    working_set_mb: float
    min_instances: int
    bundle_mb: float
    keep_mb: float
    usual_precision: str

    def provenance(self) -> dict[str, str | int | float]:
        """All that decides the speed, as plain scalars: "device" (the name), "hardware", "os", versions, threads."""
        ...

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> Runnable:
        """Make a module ready to run; the caller's module is left as it is.

        Where an instance's first runs take longer than all later ones, they are behind it.

        Args:
            module: takes `module(*args, **kwargs)`.
            args: positional inputs; floating tensors are cast to the precision.
            kwargs: inputs by name, likewise.
            precision: "fp32", "fp16" or "bf16".
            instances: independent copies of the weights through which the executions go in turn.

        Raises:
            nas.errors.DeviceError: the precision is unknown, or the device cannot run the module.
        """
        ...


def require_precision(precision: str) -> None:
    """Refuse a precision that no device knows.

    Raises:
        DeviceError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise DeviceError(f"precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
