"""From rows to the latency of architectures: base + sum over the places, as NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nas.architecture import Architecture, Block
from nas.errors import TableError
from nas.latency._row import Row
from nas.search_space import SearchSpace
from nas.workload import Workload

_PART = 4096


@dataclass(frozen=True)
class Costs:
    """What each place adds to the base, in ms.

    Attributes:
        run_ms: by the block itself, less the shortcut that its skipping would leave; [p]. 0 where the block is fixed,
            for there it is part of the base.
        copy_ms: by each copy, NaN where none was measured; [p].
    """

    run_ms: np.ndarray
    copy_ms: np.ndarray

    @classmethod
    def of(cls, space: SearchSpace, workload: Workload, rows: Mapping[str, Row]) -> Costs:
        """The costs of a space's places.

        Raises:
            TableError: a row is missing (rows of copies may be).
        """
        run = [0.0 if b.place in space.fixed else saving_ms(b, workload, rows) for b in space.blocks]
        copies = [rows.get(block.signature(workload, copy=True)) for block in space.blocks]
        copy = [np.nan if row is None else row.latency_ms for row in copies]
        return cls(np.array(run), np.array(copy))

    def sum_ms(self, counts: np.ndarray) -> np.ndarray:
        """What architectures add to the base, in ms; counts [n x p] -> [n].

        Raises:
            TableError: copies are asked for that were not measured.
        """
        # In parts that stay in a core's cache, whatever the matrix's size.
        parts = [self._part_ms(counts[start : start + _PART]) for start in range(0, len(counts), _PART)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _part_ms(self, counts: np.ndarray) -> np.ndarray:
        runs = np.minimum(counts, 1)
        copies = counts - runs
        if np.isnan(self.copy_ms).any() and copies[:, np.isnan(self.copy_ms)].any():
            raise TableError("the table has no rows for copies of blocks; measure one with copies=True")
        return runs @ self.run_ms + copies @ np.nan_to_num(self.copy_ms)


def check_rows(space: SearchSpace, workload: Workload, rows: Mapping[str, Row], *, fixed: bool) -> None:
    """Refuse rows that are missing, and rows that nothing in a space has.

    Args:
        space: the space.
        workload: the workload.
        rows: by signature.
        fixed: whether blocks that may not be removed have rows as well.

    Raises:
        TableError: names the first.
    """
    known: set[str | None] = set()
    for block in space.blocks:
        own = block.signature(workload)
        if fixed or block.place not in space.fixed:
            _row(rows, own)
        known |= {own, block.signature(workload, copy=True), block.shortcut_signature(workload)}
    if unknown := [name for name in rows if name not in known]:
        raise TableError(f"rows has {unknown[0]!r}, which no block of the search space has")


def saving_ms(block: Block, workload: Workload, rows: Mapping[str, Row]) -> float:
    """What skipping the block saves: its row less that of the shortcut that stays, in ms."""
    shortcut = block.shortcut_signature(workload)
    left_ms = 0.0 if shortcut is None else _row(rows, shortcut).latency_ms
    return _row(rows, block.signature(workload)).latency_ms - left_ms


def _row(rows: Mapping[str, Row], signature: str) -> Row:
    if signature not in rows:
        raise TableError(f"rows lacks {signature!r}, which the search space needs")
    return rows[signature]


def counts_of(space: SearchSpace, architectures: Iterable[Architecture] | np.ndarray) -> np.ndarray:
    """Runs of every place, [n x p], from architectures or from such a matrix itself.

    Raises:
        ArchitectureError: an architecture of another space.
        TableError: a matrix of another shape, or with numbers that cannot be runs.
    """
    if isinstance(architectures, np.ndarray):
        return _checked(space, architectures)
    rows = []
    for architecture in architectures:
        space.check(architecture)
        rows.append([architecture.runs(place) for place in architecture.places])
    return np.array(rows, dtype=np.int64).reshape(-1, len(space.blocks))


def _checked(space: SearchSpace, counts: np.ndarray) -> np.ndarray:
    places = len(space.blocks)
    if counts.ndim != 2 or counts.shape[1] != places:
        raise TableError(f"counts has the shape {counts.shape}; it must be [networks x {places}], a column a place")
    if not (np.issubdtype(counts.dtype, np.integer) or counts.dtype == bool):
        raise TableError(f"counts holds {counts.dtype}; it must hold whole numbers of runs")
    counts = counts.astype(np.int64, copy=False)
    if counts.size and (counts.min() < 0 or counts.max() > 1 + space.max_copies):
        raise TableError(f"counts has a number of runs that is not between 0 and {1 + space.max_copies}")
    return counts
