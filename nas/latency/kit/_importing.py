"""From a kit that was measured to a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nas.architecture import Architecture
from nas.errors import TableError
from nas.latency._bench import PROVENANCE
from nas.latency._building import table_of
from nas.latency._plan import BASE, Built
from nas.latency._row import Row
from nas.latency._table import LatencyTable
from nas.latency.devices._coreml_runtime import described_units
from nas.latency.kit._manifest import MANIFEST, RESULTS, Manifest, files_of, read_sealed
from nas.search_space import SearchSpace
from nas.workload import Workload


def import_kit(kit: str | os.PathLike[str], *, results: str | None = None) -> LatencyTable:
    """The table of a kit that was measured.

    Args:
        kit: the folder.
        results: which, by name ("ne", "iphone-ne"), if the kit was measured in several ways.

    Raises:
        TableError: the kit was not measured, or manifest or results were changed, damaged, or do not belong together.
    """
    kit = Path(kit)
    manifest = Manifest.read(kit)
    path = _results_file(kit, results)
    found = read_sealed(path)
    if found.get("manifest") != manifest.seal:
        raise TableError(f"{path} was measured with another {MANIFEST} than the kit's; measure the kit again")
    rows = _rows(path, found.get("rows"), manifest)
    wholes, held_out = ({name: Architecture.parse(name) for name in n} for n in (manifest.wholes, manifest.held_out))
    built = Built.of(rows, wholes=wholes, held_out=held_out, bundles=manifest.bundles)
    space, workload = SearchSpace.from_dict(manifest.space), Workload(**manifest.workload)
    parts = (manifest.runtime, found["runtime"], found["unit"])
    provenance = {
        "device": "-".join(part for part in parts if part) + manifest.variant,
        **found["conditions"],
        "operations": described_units(found["operations"].values()),
        **manifest.provenance,
        **{name: found[name] for name in PROVENANCE if name in found},
        "date": found["date"],
    }
    return table_of(space, workload, built, provenance=provenance, seed=manifest.seed)


def _results_file(kit: Path, results: str | None) -> Path:
    there = {path.stem: path for path in files_of(kit / RESULTS) if path.suffix == ".json"}
    if not there:
        raise TableError(f"{kit} was not measured yet: run its measure.py, or nas lut measure, on the device")
    if results is None and len(there) == 1:
        return next(iter(there.values()))
    if results not in there:
        wrong = "name one of them" if results is None else f"there are none called {results!r}"
        raise TableError(f"{kit} has the results {', '.join(there)}; {wrong}")
    return there[results]


def _rows(path: Path, data: Any, manifest: Manifest) -> dict[str, Row]:
    names = [package.name for package in manifest.packages]
    if not isinstance(data, dict) or set(data) != set(names):
        raise TableError(f"{path} does not have the rows that the kit's {MANIFEST} names; measure the kit again")
    if BASE not in data:
        raise TableError(f"{path} has no base; export the kit again")
    return {name: Row(**data[name]) for name in names}
