"""A table's rows as a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.latency._row import Row

if TYPE_CHECKING:
    import pandas as pd

    from nas.latency._table import LatencyTable


def frame_of(table: LatencyTable) -> pd.DataFrame:
    """See `LatencyTable.to_frame`."""
    import pandas as pd

    found = [_line("base", "base", table.base, 1)]
    found += [_line(str(network), "network", row, 1) for network, row in table.wholes.items()]
    signatures = [block.signature(table.workload) for block in table.space.blocks]
    signatures += [block.shortcut_signature(table.workload) for block in table.space.blocks]
    for name, row in sorted(table.rows.items()):
        found.append(_line(name, name.partition(" ")[0], row, signatures.count(name)))
    return pd.DataFrame(found)


def _line(name: str, kind: str, row: Row, blocks: int) -> dict[str, str | int | float]:
    return {"signature": name, "kind": kind, "blocks": blocks, **vars(row)}
