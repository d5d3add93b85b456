"""Two tables of one search space beside each other: other devices, machines, runtimes or precisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.errors import TableError
from nas.latency._row import NOTHING_MS

if TYPE_CHECKING:
    from nas.architecture import Block
    from nas.latency._table import LatencyTable


# Less is within what measuring a row again gives.
_DEARER = 1.01


@dataclass(frozen=True)
class RowDifference:
    """One kind of block in both tables.

    Attributes:
        signature: as in the first table.
        blocks: how many blocks of the full network have it; 0 for shortcuts and for rows that only copies have.
        a_ms: what it takes in the full network by the first table.
        b_ms: the same by the second.
        relative: `ratio` over the ratio of the full networks: above 1 it is dearer on B than B's speed explains.
    """

    signature: str
    blocks: int
    a_ms: float
    b_ms: float
    relative: float

    @property
    def ratio(self) -> float:
        """How many times as long it takes on B."""
        return self.b_ms / self.a_ms


@dataclass(frozen=True)
class Difference:
    """How the second table differs from the first.

    Attributes:
        rows: blocks, shortcuts and copies, the relatively dearest on B first. Where a table was fitted to whole
            networks, blocks less their shortcuts, and copies; fixed blocks are in its base.
        base_ms: the network with every block skipped that may be, by each table.
        full_ms: the full network, by each table.
        conditions: what differs of workload and provenance, by name: (in A, in B).
    """

    rows: tuple[RowDifference, ...]
    base_ms: tuple[float, float]
    full_ms: tuple[float, float]
    conditions: dict[str, tuple[object, object]]

    @property
    def full_ratio(self) -> float:
        """How many times as long the full network takes on B."""
        return self.full_ms[1] / self.full_ms[0]

    @property
    def dearer(self) -> tuple[RowDifference, ...]:
        """The blocks of the full network that are relatively dearer on B by more than 1 %, the dearest first."""
        return tuple(row for row in self.rows if row.blocks and row.relative > _DEARER)


def difference(a: LatencyTable, b: LatencyTable) -> Difference:
    """Compare two tables of the same search space, whatever they were measured on and for.

    Args:
        a: the table to compare with.
        b: the other one.

    Raises:
        TableError: their spaces differ in a block, or in the blocks that may not be removed.
    """
    _require_same_space(a, b)
    full_ms = a.latency_ms(a.space.full), b.latency_ms(b.space.full)
    counts: dict[tuple[_Cost, _Cost], int] = {}
    for block in a.space.blocks:
        for pair, runs in _pairs(block, a, b):
            counts[pair] = counts.get(pair, 0) + runs
    rows = [
        RowDifference(in_a.signature, blocks, in_a.ms(a), in_b.ms(b), in_b.ms(b) / in_a.ms(a) * full_ms[0] / full_ms[1])
        for (in_a, in_b), blocks in counts.items()
    ]
    rows.sort(key=lambda row: -row.relative)
    return Difference(tuple(rows), (a.base_ms, b.base_ms), full_ms, _conditions(a, b))


def _require_same_space(a: LatencyTable, b: LatencyTable) -> None:
    mine, others = ({block.place: block for block in table.space.blocks} for table in (a, b))
    differing = [place for place in {**mine, **others} if mine.get(place) != others.get(place)]
    if differing := differing or sorted(a.space.fixed ^ b.space.fixed):
        raise TableError(
            f"the tables are of different search spaces, {a.space.name!r} and {b.space.name!r}: they differ at "
            f"{differing[0]}; give two tables of the same space"
        )


@dataclass(frozen=True)
class _Cost:
    """A row of a table, less another one where there is one."""

    signature: str
    less: str | None = None

    def ms(self, table: LatencyTable) -> float:
        less_ms = 0.0 if self.less is None else table.rows[self.less].latency_ms
        return table.in_context * max(table.rows[self.signature].latency_ms - less_ms, NOTHING_MS)


def _pairs(block: Block, a: LatencyTable, b: LatencyTable) -> Iterator[tuple[tuple[_Cost, _Cost], int]]:
    # By block, not by signature: at another resolution the same block has another signature.
    tables = a, b
    whole, copied = (tuple(block.signature(table.workload, copy=copy) for table in tables) for copy in (False, True))
    left = tuple(block.shortcut_signature(table.workload) for table in tables)
    fitted = any(table.is_fitted for table in tables)
    if not (fitted and block.place in a.space.fixed):
        # Whole networks do not tell shortcuts from the base: what such a table says is a block less its shortcut.
        yield tuple(map(_Cost, whole, left) if fitted else map(_Cost, whole)), 1
    if not fitted and _in_both(left, tables):
        yield tuple(map(_Cost, left)), 0
    if _in_both(copied, tables):
        yield tuple(map(_Cost, copied)), 0


def _in_both(signatures: tuple[str | None, ...], tables: tuple[LatencyTable, LatencyTable]) -> bool:
    return all(signature in table.rows for signature, table in zip(signatures, tables, strict=True))


def _conditions(a: LatencyTable, b: LatencyTable) -> dict[str, tuple[object, object]]:
    of_a, of_b = ({**table.provenance, **vars(table.workload)} for table in (a, b))
    return {name: (of_a.get(name), of_b.get(name)) for name in {**of_a, **of_b} if of_a.get(name) != of_b.get(name)}
