"""What whole networks say of the rows: the factor of a table."""

from __future__ import annotations

import dataclasses

import pytest

from nas import LatencyTable
from nas.latency import Row


def test_whole_networks_say_what_blocks_take_in_context(fake_table: LatencyTable) -> None:
    space, base_ms = fake_table.space, fake_table.base_ms
    plain_ms = fake_table.latency_ms(space.full) - base_ms
    slower = dataclasses.replace(fake_table, wholes={space.full: Row(base_ms + 1.25 * plain_ms, 0.0, 3)})
    assert fake_table.in_context == pytest.approx(1)
    assert slower.in_context == pytest.approx(1.25)
    assert slower.latency_ms(space.full) == pytest.approx(base_ms + 1.25 * plain_ms)
    assert slower.latency_ms(space.empty) == base_ms
    block = space.blocks[3]
    assert slower.block_ms(block) == pytest.approx(1.25 * fake_table.block_ms(block))
    assert slower.copy_ms(block) == pytest.approx(1.25 * fake_table.copy_ms(block))
    removed = space.full.remove(block)
    assert slower.latency_ms(space.full) - slower.latency_ms(removed) == pytest.approx(slower.block_ms(block))


def test_one_disturbed_network_is_outvoted(fake_table: LatencyTable) -> None:
    first, *others = fake_table.wholes.items()
    disturbed = {first[0]: Row(2 * first[1].latency_ms, 0.0, 3), **dict(others)}
    assert dataclasses.replace(fake_table, wholes=disturbed).in_context == pytest.approx(1)
