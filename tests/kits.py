"""A converter that writes down what a module costs, and a runtime that takes so long."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch


class CostConverter:
    """Writes a folder with the number of a module's weights in it."""

    runtime = "pretended"
    suffix = ".package"
    variant = "+thrift"
    working_set_mb = 0.0
    bundle_mb = 0.0
    keep_mb = 0.0

    def provenance(self) -> dict[str, str]:
        return {"target": "none"}

    def write(
        self, module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, precision: str, path: Path
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        path.mkdir()
        weights = sum(parameter.numel() for parameter in module.parameters())
        (path / "weights.json").write_text(json.dumps(weights))
        return {"x": ((2, 3), "float16"), "timestep": ((1,), "int32")}


class CostRuntime:
    """Takes a microsecond for each weight; ends after some predictions if asked to."""

    hardware, system = "none", "none"

    def __init__(self, name: str = "", *, predictions: float = float("inf")) -> None:
        self.name, self.left, self.made = name, predictions, 0
        self.loaded: list[Path] = []

    def provenance(self) -> dict[str, str]:
        return {"hardware": self.hardware, "os": self.system}

    def load(self, package: Path, unit: str) -> CostProgram:
        self.loaded.append(package)
        return CostProgram(self, 1e-3 * json.loads((package / "weights.json").read_text()))


class CostProgram:
    """One package of a `CostRuntime`."""

    def __init__(self, runtime: CostRuntime, cost_ms: float) -> None:
        self.runtime, self.cost_ms = runtime, cost_ms

    def predict_ms(self, inputs: Mapping[str, np.ndarray]) -> float:
        assert {name: (x.shape, x.dtype.name) for name, x in inputs.items()} == {
            "x": ((2, 3), "float16"),
            "timestep": ((1,), "int32"),
        }
        if self.runtime.made >= self.runtime.left:
            raise KeyboardInterrupt
        self.runtime.made += 1
        return self.cost_ms

    def placement(self) -> Counter[tuple[str, str]]:
        return Counter({("conv", "ne"): 3, ("add", "ne"): 1, ("cast", "cpu"): 1})
