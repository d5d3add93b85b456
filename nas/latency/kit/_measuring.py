"""Measuring a kit where it was brought to. Needs what Core ML needs, and nothing else of this library's."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import weakref
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import NasError
from nas.latency._bench import Bench
from nas.latency._timing import Timing
from nas.latency._visits import Visits
from nas.latency.devices._coreml_runtime import PHONES, UNITS, CoreMLRuntime, MacRuntime, PhoneRuntime
from nas.latency.kit._manifest import RESULTS, Manifest, Package, require_intact, write_sealed

if TYPE_CHECKING:
    from nas.latency.devices._coreml_runtime import LoadedProgram


def measure_kit(kit: Path, unit: str, *, runtime: CoreMLRuntime | None = None, timing: Timing | None = None) -> Path:
    """Measure a kit's packages on one compute unit; an interrupted measurement goes on where it stopped.

    Args:
        kit: the folder.
        unit: "cpu", "gpu", "ne" or "all".
        runtime: where programs run; this Mac when None.
        timing: how long to measure.

    Returns:
        the file of results, inside the kit.

    Raises:
        TableError: the kit was changed or damaged.
        DeviceError: this is no Mac, or a package cannot be run.
    """
    manifest = Manifest.read(kit)
    runtime = runtime or runtime_of("", "")
    label = "-".join(part for part in (runtime.name, unit) if part)
    machine = runtime.provenance()
    bench = Bench(_load(kit, manifest.canary, runtime, unit, {}), timing or Timing(passes=manifest.passes))
    # Where a package's operations run is known once it was loaded; those measured before an interruption are not again.
    placements: dict[str, dict[str, int]] = {}
    loaders = {package.name: partial(_load, kit, package, runtime, unit, placements) for package in manifest.packages}
    rows = bench.measure_all(
        loaders,
        description=f"Measuring {manifest.space['name']} on {label}",
        twice={"base", *manifest.wholes},
        visits=Visits(kit / RESULTS / f"{label}.visits.jsonl", f"{manifest.seal} {label} {machine['hardware']}"),
    )
    for name in loaders.keys() - placements.keys():
        loaders[name]()
    path = kit / RESULTS / f"{label}.json"
    found = {
        "manifest": manifest.seal,
        "runtime": runtime.name,
        "unit": unit,
        "machine": machine,
        **bench.provenance(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rows": {name: vars(row) for name, row in rows.items()},
        "operations": {name: placements[name] for name in rows},
    }
    write_sealed(path, found)
    return path


def _load(
    kit: Path, package: Package, runtime: CoreMLRuntime, unit: str, placements: dict[str, dict[str, int]]
) -> _Programs:
    path = require_intact(kit, package)
    folder = Path(tempfile.mkdtemp(prefix="nas-kit-"))
    try:
        # Files of their own, so that instances do not share weights that are mapped into memory.
        copies = [shutil.copytree(path, folder / f"{number}{path.suffix}") for number in range(1, package.instances)]
        programs = [runtime.load(each, unit) for each in (path, *copies)]
        if package.name not in placements:
            placements[package.name] = _by_unit(programs[0])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _Programs(programs, _inputs_of(package), folder)


class _Programs:
    """Instances of a program that are run in turn; their files go with them."""

    weight_mb = 0.0

    def __init__(self, programs: list[LoadedProgram], inputs: dict[str, np.ndarray], folder: Path) -> None:
        self._inputs, self._turns = inputs, cycle(programs)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def run_ms(self) -> float:
        """The next instance, by the runtime's clock."""
        return next(self._turns).predict_ms(self._inputs)


def _by_unit(program: LoadedProgram) -> dict[str, int]:
    units: Counter[str] = Counter()
    for (_, unit), count in program.placement().items():
        units[unit] += count
    return dict(sorted(units.items()))


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
