"""Two tables of one search space beside each other: other devices, machines, runtimes or precisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.errors import TableError

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
        blocks: how many blocks of the full network have it; 0 for rows that only copies have.
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
        rows: blocks, shortcuts and copies, the relatively dearest on B first.
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
    counts: dict[tuple[str, str], int] = {}
    for block in a.space.blocks:
        for pair, runs in _pairs(block, a, b):
            counts[pair] = counts.get(pair, 0) + runs
    rows = [_row(a, b, *pair, blocks, full_ms[1] / full_ms[0]) for pair, blocks in counts.items()]
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


def _pairs(block: Block, a: LatencyTable, b: LatencyTable) -> Iterator[tuple[tuple[str, str], int]]:
    # By block, not by signature: at another resolution the same block has another signature.
    yield (block.signature(a.workload), block.signature(b.workload)), 1
    left = block.shortcut_signature(a.workload), block.shortcut_signature(b.workload)
    if None not in left:
        yield left, 0
    copies = block.signature(a.workload, copy=True), block.signature(b.workload, copy=True)
    if copies[0] in a.rows and copies[1] in b.rows:
        yield copies, 0


def _row(a: LatencyTable, b: LatencyTable, in_a: str, in_b: str, blocks: int, full_ratio: float) -> RowDifference:
    a_ms, b_ms = a.in_context * a.rows[in_a].latency_ms, b.in_context * b.rows[in_b].latency_ms
    return RowDifference(in_a, blocks, a_ms, b_ms, b_ms / a_ms / full_ratio)


def _conditions(a: LatencyTable, b: LatencyTable) -> dict[str, tuple[object, object]]:
    of_a, of_b = ({**table.provenance, **vars(table.workload)} for table in (a, b))
    return {name: (of_a.get(name), of_b.get(name)) for name in {**of_a, **of_b} if of_a.get(name) != of_b.get(name)}
