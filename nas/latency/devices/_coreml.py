"""Core ML: blocks are converted by coremltools and timed by Core ML itself.

Conversion runs on any operating system and is tested; prediction runs on macOS only. It has not been run on a Mac, an
iPhone or an iPad yet.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nas.latency.devices._apple import AppleDevice
from nas.latency.devices._coreml_program import (
    CoreMLProgram,
    coreml_inputs,
    export_for_coreml,
    read_coreml,
    require_coreml_precision,
    require_target,
    write_coreml,
)
from nas.latency.devices._coreml_runtime import CoreMLRuntime, LoadedProgram, MacRuntime, conditions_of, require_unit
from nas.latency.devices._first_runs import after_first_runs

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class CoreMLDevice(AppleDevice):
    """A compute unit under Core ML. Not run on a Mac, an iPhone or an iPad yet: only with a runtime that plays Core ML.

    Args:
        unit: "cpu" (CPU_ONLY), "gpu" (CPU_AND_GPU), "ne" (CPU_AND_NE, the Neural Engine) or "all".
        runtime: where programs run; this Mac when None.
        attention: "original", "split-einsum" or "split-einsum-chunks", put into whatever is measured.
        target: "iOS17" (macOS 14) or "iOS18" (macOS 15): for which systems programs are converted.

    Raises:
        DeviceError: the unit or target is unknown, or this is no Mac and there is no other runtime.
        ModelError: the attention is unknown.
    """

    # The Neural Engine computes in nothing else, and programs in fp32 are run elsewhere.
    usual_precision = "fp16"

    def __init__(
        self,
        unit: str,
        *,
        runtime: CoreMLRuntime | None = None,
        attention: str = "original",
        target: str = "iOS17",
    ) -> None:
        require_unit(unit)
        require_target(target)
        self.unit, self.target = unit, target
        self.runtime = MacRuntime() if runtime is None else runtime
        name = "-".join(part for part in ("coreml", self.runtime.name, unit) if part)
        super().__init__(name if target == "iOS17" else f"{name}+{target}", attention)

    def provenance(self) -> dict[str, str | int | float]:
        """The runtime's machine, and what was asked of Core ML."""
        return self._provenance({**conditions_of(self.runtime, self.unit), "target": self.target}, "coremltools")

    def load(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        precision: str,
        instances: int = 1,
    ) -> CoreMLRunnable:
        """See `Device.load`. Core ML has no bf16, which is refused."""
        require_coreml_precision(precision)
        exported = export_for_coreml(module, args, kwargs, attention=self.attention)
        folder = Path(tempfile.mkdtemp(prefix="nas-coreml-"))
        try:
            # Files of their own, so that instances do not share weights that Core ML maps into memory.
            first, *others = [folder / f"{number}.mlpackage" for number in range(instances)]
            write_coreml(exported, first, target=self.target, precision=precision)
            for package in others:
                shutil.copytree(first, package)
            program = read_coreml(first)
            loaded = [self.runtime.load(package, self.unit) for package in (first, *others)]
            runnable = CoreMLRunnable(loaded, program, coreml_inputs(exported, program), folder)
            return after_first_runs(runnable, instances)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


class CoreMLRunnable:
    """Instances of a program that are run in turn; their files go with it."""

    def __init__(
        self, loaded: list[LoadedProgram], program: CoreMLProgram, inputs: dict[str, np.ndarray], folder: Path
    ) -> None:
        self.inputs, self.weight_mb = inputs, len(loaded) * program.weight_bytes / 2**20
        self._loaded, self._turns, self._output = loaded, cycle(loaded), next(iter(program.outputs))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def run_ms(self) -> float:
        """The next instance, by Core ML's clock."""
        return next(self._turns).predict_ms(self.inputs)

    def output(self) -> torch.Tensor:
        """See `Runnable.output`."""
        return torch.from_numpy(self._loaded[0].predict(self.inputs)[self._output].astype("float32"))

    def placement(self) -> Counter[tuple[str, str]]:
        """(operation, compute unit) -> how many of these operations Core ML means to run there."""
        return self._loaded[0].placement()
