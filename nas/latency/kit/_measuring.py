"""Measuring a kit where it was brought to. Needs what Core ML needs, and nothing else of this library's."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import weakref
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import NasError, TableError
from nas.latency._bench import Bench
from nas.latency._timing import Timing
from nas.latency._visits import Visits
from nas.latency.devices._coreml_runtime import (
    PHONES,
    UNITS,
    CoreMLRuntime,
    MacRuntime,
    PhoneRuntime,
    conditions_of,
    require_unit,
    units_of,
)
from nas.latency.devices._first_runs import after_first_runs
from nas.latency.kit._manifest import RESULTS, Manifest, Package, files_of, read_sealed, require_intact, write_sealed

if TYPE_CHECKING:
    from nas.latency.devices._coreml_runtime import LoadedProgram


def measure_kit(
    kit: str | os.PathLike[str], unit: str, *, runtime: CoreMLRuntime | None = None, timing: Timing | None = None
) -> Path:
    """Measure a kit's packages on one compute unit.

    An interrupted measurement goes on where it stopped. One that was finished is made anew, and its results are
    replaced once there are new ones.

    Args:
        kit: the folder.
        unit: "cpu", "gpu", "ne" or "all".
        runtime: where programs run; this Mac when None.
        timing: how long to measure.

    Returns:
        the file of results, inside the kit.

    Raises:
        TableError: the kit was changed or damaged, what an interrupted measurement found is another one's, or there are
            results of another machine.
        DeviceError: there is no such unit, this is no Mac, or a package cannot be run.
        StorageError: nothing can be written into the kit.
    """
    kit = Path(kit)
    require_unit(unit)
    manifest = Manifest.read(kit)
    runtime = runtime or runtime_of("", "")
    label = "-".join(part for part in (runtime.name, unit) if part)
    conditions, loading = conditions_of(runtime, unit), _Loading(kit, runtime, unit)
    timing = timing or Timing(passes=manifest.passes)
    path, kept = kit / RESULTS / f"{label}.json", kit / RESULTS / f"{label}.visits.jsonl"
    _require_same_machine(path, conditions["hardware"])
    visits = Visits(kept, f"{manifest.seal} {label} {conditions['hardware']}, {conditions['os']}, {timing}")
    bench = Bench(loading.load(manifest.canary), timing, keep_mb=manifest.keep_mb)
    rows = bench.measure_all(
        {package.name: partial(loading.load, package) for package in manifest.packages},
        description=f"Measuring {manifest.space['name']} on {label}",
        twice={"base", *manifest.wholes},
        visits=visits,
    )
    found = {
        "manifest": manifest.seal,
        "runtime": runtime.name,
        "unit": unit,
        "conditions": conditions,
        **bench.provenance(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rows": {name: vars(row) for name, row in rows.items()},
        "operations": {package.name: loading.placement(package) for package in manifest.packages},
    }
    write_sealed(path, found)
    kept.unlink(missing_ok=True)
    return path


def _require_same_machine(path: Path, hardware: str | int | float) -> None:
    """Refuse to replace what another machine found, which cannot be measured again here."""
    try:
        other = read_sealed(path)["conditions"]["hardware"]
    except TableError:
        return  # there are none yet, or they are damaged and worth nothing
    if other != hardware:
        raise TableError(f"{path} holds what {other} found, and this is {hardware}; move it away to measure here")


class _Loading:
    """Loads a kit's packages, and notes on which units their operations run."""

    def __init__(self, kit: Path, runtime: CoreMLRuntime, unit: str) -> None:
        self._kit, self._runtime, self._unit = kit, runtime, unit
        self._placements: dict[str, dict[str, int]] = {}

    def load(self, package: Package) -> _Programs:
        """All instances of a package."""
        path = require_intact(self._kit, package)
        folder = Path(tempfile.mkdtemp(prefix="nas-kit-"))
        try:
            # Files of their own, so that instances do not share weights that are mapped into memory.
            copies = [_copied(path, folder / f"{number}{path.suffix}") for number in range(1, package.instances)]
            programs = [self._runtime.load(each, self._unit) for each in (path, *copies)]
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._note(package, programs[0])
        loaded = _Programs(programs, _inputs_of(package), folder, len(programs) * _megabytes(path))
        return after_first_runs(loaded, package.instances)

    def placement(self, package: Package) -> dict[str, int]:
        """Operations on each unit. What was measured before an interruption is loaded once more for it."""
        if package.name not in self._placements:
            self._note(package, self._runtime.load(require_intact(self._kit, package), self._unit))
        return self._placements[package.name]

    def _note(self, package: Package, program: LoadedProgram) -> None:
        if package.name in self._placements:
            return
        self._placements[package.name] = dict(sorted(units_of(program).items()))


class _Programs:
    """Instances of a program that are run in turn; their files go with them."""

    def __init__(
        self, programs: list[LoadedProgram], inputs: dict[str, np.ndarray], folder: Path, weight_mb: float
    ) -> None:
        self.weight_mb, self._inputs, self._turns = weight_mb, inputs, cycle(programs)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def run_ms(self) -> float:
        """The next instance, by the runtime's clock."""
        return next(self._turns).predict_ms(self._inputs)


def _copied(path: Path, target: Path) -> Path:
    return Path(shutil.copytree(path, target) if path.is_dir() else shutil.copyfile(path, target))


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in files_of(path)) / 2**20


def _inputs_of(package: Package) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = {}
    for name, (shape, dtype) in package.inputs.items():
        floating = np.issubdtype(np.dtype(dtype), np.floating)
        inputs[name] = (rng.standard_normal(shape) if floating else np.ones(shape)).astype(dtype)
    return inputs


def runtime_of(where: str, team: str) -> CoreMLRuntime:
    """This Mac, or the "iphone" or "ipad" that is connected to it.

    Raises:
        DeviceError: this is no Mac, or no such device is connected.
    """
    return PhoneRuntime(where, team=team) if where else MacRuntime()


def main(arguments: list[str] | None = None) -> int:
    """What `measure.py` in a kit runs."""
    parser = argparse.ArgumentParser(prog="measure.py", description="Measure this kit's Core ML packages.")
    parser.add_argument("kit", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--unit", choices=UNITS, default="ne", help="compute unit (default: ne, the Neural Engine)")
    parser.add_argument("--on", choices=PHONES, default="", help="a device connected to this Mac")
    parser.add_argument("--team", default="", help="development team that signs the app on the device")
    options = parser.parse_args(arguments)
    try:
        path = measure_kit(options.kit, options.unit, runtime=runtime_of(options.on, options.team))
    except (NasError, OSError) as error:
        print(f"measure.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("measure.py: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"written to {path}; bring the kit back and run: nas lut import KIT --out FILE")
    return 0
