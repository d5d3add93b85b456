from __future__ import annotations

import dataclasses

import pytest

from nas import LatencyTable, SearchSpace
from nas.errors import TableError
from nas.latency import Row, Timing, difference
from nas.latency.testing import FakeDevice


def scaled(table: LatencyTable, attention: float, rest: float) -> LatencyTable:
    """The table of a device on which attention takes `attention` times as long and everything else `rest` times."""

    def times(row: Row, factor: float) -> Row:
        return dataclasses.replace(row, latency_ms=factor * row.latency_ms)

    rows = {name: times(row, attention if name.startswith("attention") else rest) for name, row in table.rows.items()}
    provenance = {**table.provenance, "device": "other"}
    return LatencyTable(table.space, table.workload, rows, times(table.base, rest), provenance)


def test_a_table_does_not_differ_from_itself(fake_table: LatencyTable) -> None:
    found = difference(fake_table, fake_table)
    assert found.full_ratio == 1
    assert found.dearer == ()
    assert found.conditions == {}
    assert {row.signature for row in found.rows} == set(fake_table.rows)
    assert all(row.ratio == row.relative == 1 for row in found.rows)
    assert sum(row.blocks for row in found.rows) == len(fake_table.space.blocks)


def test_what_is_relatively_dearer_is_found(fake_table: LatencyTable) -> None:
    other = scaled(fake_table, attention=2.0, rest=0.5)
    found = difference(fake_table, other)
    full = fake_table.space.full
    assert found.full_ms == (fake_table.latency_ms(full), other.latency_ms(full))
    assert found.base_ms == (fake_table.base_ms, other.base_ms)
    assert {row.signature for row in found.dearer} == {n for n in fake_table.rows if n.startswith("attention")}
    for row in found.rows:
        ratio = 2.0 if row.signature.startswith("attention") else 0.5
        assert row.ratio == pytest.approx(ratio)
        assert row.relative == pytest.approx(ratio * found.full_ms[0] / found.full_ms[1])
    assert found.rows[0].signature.startswith("attention")
    assert found.conditions == {"device": ("fake", "other")}


def test_a_uniformly_slower_device_is_not_relatively_dearer_anywhere(fake_table: LatencyTable) -> None:
    found = difference(fake_table, scaled(fake_table, attention=2.0, rest=2.0))
    assert found.full_ratio == pytest.approx(2)
    assert all(row.relative == pytest.approx(1) for row in found.rows)
    assert found.dearer == ()


def test_rows_are_paired_by_block_across_resolutions(fake_table: LatencyTable, quick: Timing) -> None:
    device = FakeDevice(ms_per_parameter=3e-3)
    larger = LatencyTable.measure(fake_table.space, device=device, height=16, width=24, timing=quick)
    found = difference(fake_table, larger)
    assert all(row.ratio == pytest.approx(3) for row in found.rows)
    assert found.conditions["height"] == (8, 16)


def test_copies_are_compared_where_both_have_them(fake_table: LatencyTable) -> None:
    space, workload = fake_table.space, fake_table.workload
    own = {block.signature(workload) for block in space.blocks}
    own |= {block.shortcut_signature(workload) for block in space.blocks} - {None}
    without = dataclasses.replace(fake_table, rows={name: fake_table.rows[name] for name in own})
    assert {row.signature for row in difference(fake_table, without).rows} == own


def test_tables_of_different_spaces_are_refused(
    fake_table: LatencyTable, tiny_config: dict, tiny_space: SearchSpace, quick: Timing
) -> None:
    thin = SearchSpace.from_config({**tiny_config, "layers_per_block": 1}, name="thin", context_length=5)
    with pytest.raises(TableError, match=r"'tiny' and 'thin'.* differ at down\.0\.resnet\.1"):
        difference(fake_table, LatencyTable.measure(thin, device=FakeDevice(), timing=quick))
    fixed = dataclasses.replace(tiny_space, fixed=frozenset({"mid.attention.0"}))
    with pytest.raises(TableError, match=r"differ at mid\.attention\.0"):
        difference(fake_table, dataclasses.replace(fake_table, space=fixed))
