from __future__ import annotations

import dataclasses

import pytest

from nas import LatencyTable
from nas.latency import Row, breakdown
from nas.unet import network_macs


def test_the_parts_add_up_to_the_full_network(fake_table: LatencyTable) -> None:
    parts, space = breakdown(fake_table), fake_table.space
    assert sum(part.latency_ms for part in parts) == pytest.approx(fake_table.latency_ms(space.full))
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.parameters for part in parts) == space.parameters
    assert sum(part.macs for part in parts) == network_macs(space, fake_table.workload)
    assert sum(part.blocks for part in parts) == len(space.blocks)


def test_a_part_takes_what_its_weights_take(fake_table: LatencyTable) -> None:
    # The fake device takes a microsecond for each weight, so time and weights are one quantity.
    for part in breakdown(fake_table):
        assert part.latency_ms == pytest.approx(1e-3 * part.parameters, abs=1e-4)


def test_parts_stand_in_network_order_attention_first(fake_table: LatencyTable) -> None:
    names = [(part.stage, part.kind) for part in breakdown(fake_table)]
    assert names[:3] == [("down.0", "attention"), ("down.0", "resnet"), ("down.1", "attention")]
    assert ("down.2", "attention") not in names
    assert names[-1] == ("base", "base")
    assert [stage for stage, _ in names if stage.startswith(("mid", "up"))] == (
        ["mid"] * 2 + ["up.0"] + ["up.1"] * 2 + ["up.2"] * 2
    )


def test_blocks_are_what_they_are_in_context(fake_table: LatencyTable) -> None:
    base_ms = fake_table.base_ms
    full_ms = fake_table.latency_ms(fake_table.space.full)
    slower = dataclasses.replace(
        fake_table, wholes={fake_table.space.full: Row(base_ms + 1.5 * (full_ms - base_ms), 0.0, 3)}
    )
    for was, now in zip(breakdown(fake_table)[:-1], breakdown(slower)[:-1], strict=True):
        assert now.latency_ms == pytest.approx(1.5 * was.latency_ms)
    assert sum(part.latency_ms for part in breakdown(slower)) == pytest.approx(slower.latency_ms(slower.space.full))
