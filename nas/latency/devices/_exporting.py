"""What the devices share that export a module and have a runtime of their own compile it for the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from time import perf_counter_ns
from typing import Any

import torch

from nas.errors import MissingRuntimeError
from nas.latency.devices._export import Exported, explained
from nas.latency.devices._machine import machine, require_threads, versions


class ExportingDevice:
    """A runtime on the CPU; see `Device`.

    Args:
        threads: of each execution; as many as torch uses when None.

    Raises:
        DeviceError: `threads` is no whole number of at least 1.
    """

    name: str
    home = "cpu"
    working_set_mb = 64.0
    min_instances = 1
    bundle_mb = 16.0
    # Exporting and compiling take seconds.
    keep_mb = 512.0
    usual_precision = "fp32"

    def __init__(self, *, threads: int | None = None) -> None:
        self.threads = require_threads(threads) or torch.get_num_threads()

    def provenance_with(self, *packages: str, **found: str | int | float) -> dict[str, str | int | float]:
        """Machine and threads, what else there is to say, and versions."""
        known = {"device": self.name, **machine(), "threads": self.threads}
        return {**known, **found, **versions(*packages, "torch", "diffusers")}


class ExportedRunnable:
    """Compiled instances of one module that are run in turn.

    Args:
        instances: as many as there are, in the form that `execute` takes.
        exported: what they were compiled from.
        device: its name, for errors.
        precision: for errors.
    """

    def __init__(self, instances: Sequence[Any], exported: Exported, *, device: str, precision: str) -> None:
        self.weight_mb = exported.weight_mb * len(instances)
        self._first, self._turns = instances[0], cycle(instances)
        # The inputs of all instances may be on this memory.
        self._tensors = exported.tensors
        self._device, self._precision = device, precision

    def run_ms(self) -> float:
        """The next instance, by the wall clock."""
        return self._timed()[0]

    def output(self) -> torch.Tensor:
        """See `Runnable.output`."""
        with explained(self._device, self._precision):
            self.execute(self._first)
            return self.output_of(self._first)

    def _timed(self) -> tuple[float, Any]:
        """The next instance run once: its time in ms, and which it was."""
        instance = next(self._turns)
        with explained(self._device, self._precision):
            start = perf_counter_ns()
            self.execute(instance)
            return (perf_counter_ns() - start) / 1e6, instance

    def execute(self, instance: Any) -> None:
        """Run an instance once and wait for the end."""
        raise NotImplementedError

    def output_of(self, instance: Any) -> torch.Tensor:
        """A copy of the first output of an instance that ran, in float32."""
        raise NotImplementedError


@contextmanager
def needing(name: str, extra: str) -> Iterator[None]:
    """Turn a failed import into an error that names the extra.

    Raises:
        MissingRuntimeError: something that the device of that name needs cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        # A package that is there and broken has no name in its error, but a reason.
        raise MissingRuntimeError(f"{name} needs {error.name or error}; pip install 'nas[{extra}]'") from error
