"""A table from whole networks alone, for devices on which no block can be timed by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from nas.architecture import Architecture
from nas.errors import TableError
from nas.latency._fitting import FittedRows, fit_rows
from nas.latency._row import NOTHING_MS, Row
from nas.latency._validation import Pair, Validation
from nas.search_space import SearchSpace
from nas.workload import Workload

# An estimate's interquartile range, in standard errors.
_QUARTILES = 2 * float(norm.ppf(0.75))


def fitted_fields(
    space: SearchSpace, workload: Workload, runs: np.ndarray, latencies_ms: Any, *, keep_unusable: bool, date: str
) -> dict[str, Any]:
    """Fields of a `LatencyTable`, its provenance as far as the fit is concerned; runs [n x p]. See `LatencyTable.fit`.

    Raises:
        TableError: the networks do not tell the rows apart, or the fit is not usable and not to be kept nevertheless.
    """
    names, counts = signature_counts(space, workload, runs)
    fit = fit_rows(counts, latencies_ms, positive=True)
    _require_told_apart(names, fit)
    if not (fit.usable or keep_unusable):
        raise TableError(f"the fit is {fit.reason}; keep_unusable=True keeps it with this reason in its provenance")
    if fit.base_ms <= 0:
        raise TableError(f"the fitted base is {fit.base_ms:.6g} ms; measure more networks with few blocks")
    rows = {
        name: _row(row_ms, stderr_ms, int((column > 0).sum()))
        for name, row_ms, stderr_ms, column in zip(names, fit.rows_ms, fit.stderr_ms, counts.T, strict=True)
    }
    shortcuts = {b.shortcut_signature(workload) for b in space.blocks if b.has_shortcut and b.place not in space.fixed}
    return {
        # Shortcuts run whether their block is skipped or not, so that whole networks have them in the base.
        "rows": rows | {name: Row(NOTHING_MS, 0.0, len(counts)) for name in sorted(shortcuts)},
        "base": _row(fit.base_ms, fit.base_stderr_ms, len(counts)),
        "provenance": _provenance(fit, len(counts)),
        "validation": _validation(space, runs, np.asarray(latencies_ms, dtype=float), fit, date),
    }


def signature_counts(space: SearchSpace, workload: Workload, runs: np.ndarray) -> tuple[list[str], np.ndarray]:
    """How often each signature runs beyond the base: signatures, and counts [n x signatures] from runs [n x p].

    Fixed blocks and shortcuts are part of the base. Copies of which no network has one are left out.
    """
    columns: dict[str, np.ndarray] = {}
    for block, column in zip(space.blocks, runs.T, strict=True):
        if block.place not in space.fixed:
            name = block.signature(workload)
            columns[name] = columns.get(name, 0) + np.minimum(column, 1)
        if (copies := column - np.minimum(column, 1)).any():
            name = block.signature(workload, copy=True)
            columns[name] = columns.get(name, 0) + copies
    if not columns:
        raise TableError(f"every block of {space.name!r} is fixed and none is copied, so there are no rows to fit")
    return list(columns), np.stack(list(columns.values()), axis=1)


def _require_told_apart(names: Sequence[str], fit: FittedRows) -> None:
    unclear = [name for name, known in zip(names, fit.identifiable, strict=True) if not known]
    if unclear:
        raise TableError(
            f"the networks do not tell {len(unclear)} of {len(names)} rows apart, among them {unclear[0]!r}: it always "
            "or never runs, or only along with others; measure networks that differ in it"
        )


def _row(row_ms: float, stderr_ms: float, count: int) -> Row:
    return Row(max(float(row_ms), NOTHING_MS), _QUARTILES * float(stderr_ms), count)


def _provenance(fit: FittedRows, networks: int) -> dict[str, str | int | float]:
    return {
        "rows": f"fitted to {networks} whole networks; shortcuts are in the base",
        "fit": fit.reason,
        "fit_usable": int(fit.usable),
        "fit_r2": round(fit.r2, 6),
    }


def _validation(
    space: SearchSpace, runs: np.ndarray, latencies_ms: np.ndarray, fit: FittedRows, date: str
) -> Validation:
    # A fit that is no good may predict less than no time; that is then as wrong as no time at all.
    predicted_ms = np.maximum(fit.held_out_ms, NOTHING_MS)
    places = [block.place for block in space.blocks]
    architectures = [Architecture(tuple(zip(places, map(str, row), strict=True))) for row in runs.tolist()]
    for architecture in architectures:
        space.check(architecture)
    return Validation(
        tuple(
            Pair(str(architecture), float(predicted), float(measured))
            for architecture, predicted, measured in zip(architectures, predicted_ms, latencies_ms, strict=True)
        ),
        date=date,
    )
