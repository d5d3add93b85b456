from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from nas import Architecture, LatencyTable, SearchSpace, Workload
from nas.errors import ArchitectureError, TableError
from nas.latency import Timing, breakdown, difference
from nas.latency.testing import FakeDevice


def drawn(space: SearchSpace, networks: int, seed: int = 0) -> list[Architecture]:
    """Random networks, some blocks of which are copied."""
    rng, found = random.Random(seed), []
    for _ in range(networks):
        architecture = space.sample(rng)
        for block in space.duplicable(architecture):
            architecture = architecture.duplicate(block) if rng.random() < 0.3 else architecture
        found.append(architecture)
    return found


def test_a_table_is_recovered_from_its_networks(fake_table: LatencyTable) -> None:
    space, networks = fake_table.space, drawn(fake_table.space, 120)
    latencies_ms = fake_table.latencies_ms(networks[:80])
    provenance = {"hardware": "none"}
    table = LatencyTable.fit(space, networks[:80], latencies_ms, device="phone", provenance=provenance)
    assert table.latencies_ms(networks) == pytest.approx(fake_table.latencies_ms(networks), rel=1e-9)
    assert table.base_ms == pytest.approx(fake_table.base_ms, rel=1e-9)
    for block in space.blocks:
        assert table.block_ms(block) == pytest.approx(fake_table.block_ms(block), rel=1e-6)
        assert table.copy_ms(block) == pytest.approx(fake_table.copy_ms(block), rel=1e-6)
    assert set(table.rows) == set(fake_table.rows)
    assert (table.device, table.provenance["hardware"], table.provenance["batch_size"]) == ("phone", "none", 2)
    assert str(table.provenance["fit"]).startswith("usable: ")
    assert table.validation.worst_error < 1e-6
    assert len(table.validation.pairs) == 80


def test_a_fitted_table_differs_from_a_measured_one_in_nothing_that_it_knows(fake_table: LatencyTable) -> None:
    networks = drawn(fake_table.space, 80)
    table = LatencyTable.fit(fake_table.space, networks, fake_table.latencies_ms(networks), device="phone")
    for found in (difference(fake_table, table), difference(table, fake_table)):
        assert found.dearer == ()
        assert all(row.ratio == pytest.approx(1, rel=1e-6) for row in found.rows)
        assert sum(row.blocks for row in found.rows) == len(fake_table.space.blocks)


def test_a_fitted_table_survives_the_disk(fake_table: LatencyTable, tmp_path: Path) -> None:
    networks = drawn(fake_table.space, 60)
    noise = np.random.default_rng(0).normal(1, 0.02, 60)
    table = LatencyTable.fit(fake_table.space, networks, fake_table.latencies_ms(networks) * noise, device="phone")
    table.save(tmp_path / "phone.yaml")
    again = LatencyTable.load(tmp_path / "phone.yaml")
    assert (again.rows, again.base, again.provenance) == (table.rows, table.base, table.provenance)
    assert again.validation == table.validation
    assert (again.latencies_ms(networks) == table.latencies_ms(networks)).all()


def test_rows_say_how_sure_they_are(fake_table: LatencyTable) -> None:
    space, workload = fake_table.space, fake_table.workload
    networks = drawn(space, 200)
    exact_ms, rng = fake_table.latencies_ms(networks), np.random.default_rng(1)
    table = LatencyTable.fit(space, networks, exact_ms + rng.normal(0, 2, 200), device="phone")
    block = space.block("mid.attention.0")
    signature = block.signature(workload)
    row = table.rows[signature]
    same = [b.place for b in space.blocks if signature in (b.signature(workload), b.signature(workload, copy=True))]
    assert row.count == sum(any(a.runs(place) for place in same) for a in networks)
    assert table.base.count == 200
    # A normal distribution's quartiles are 0.6745 standard deviations from its mean.
    assert abs(row.latency_ms - fake_table.rows[signature].latency_ms) < 5 * row.spread_ms / 1.349
    shortcut = next(b for b in space.blocks if b.has_shortcut).shortcut_signature(workload)
    assert 0 < table.rows[shortcut].latency_ms < 1e-9


def test_runs_serve_as_well_as_architectures(fake_table: LatencyTable) -> None:
    networks = drawn(fake_table.space, 60)
    runs = np.array([[a.runs(place) for place in a.places] for a in networks])
    latencies_ms = fake_table.latencies_ms(networks)
    one, other = (LatencyTable.fit(fake_table.space, given, latencies_ms, device="p") for given in (networks, runs))
    assert (one.rows, one.base, one.validation.pairs) == (other.rows, other.base, other.validation.pairs)


def test_without_copies_there_are_no_rows_for_them(tiny_config: dict, quick: Timing) -> None:
    # With one ResNet a stage, none of them takes as many channels as it gives, as its copy does.
    space = SearchSpace.from_config({**tiny_config, "layers_per_block": 1}, name="thin", context_length=5)
    measured, rng = LatencyTable.measure(space, device=FakeDevice(), timing=quick), random.Random(0)
    networks = [space.sample(rng) for _ in range(60)]
    table = LatencyTable.fit(space, networks, measured.latencies_ms(networks), device="phone")
    assert table.latency_ms(space.full) == pytest.approx(measured.latency_ms(space.full))
    with pytest.raises(TableError, match="copies"):
        table.copy_ms("down.1.resnet.0")


def test_fixed_blocks_are_in_the_base(tiny_config: dict, quick: Timing) -> None:
    fixed = frozenset({"mid.resnet.0", "up.2.attention.1", "down.1.resnet.0"})
    space = SearchSpace.from_config(tiny_config, name="tiny", context_length=5, fixed=fixed)
    measured = LatencyTable.measure(space, device=FakeDevice(), timing=quick)
    networks = drawn(space, 80)
    table = LatencyTable.fit(space, networks, measured.latencies_ms(networks), device="phone")
    assert table.latencies_ms(networks) == pytest.approx(measured.latencies_ms(networks), rel=1e-9)
    assert table.base_ms == pytest.approx(measured.base_ms)
    *parts, base = breakdown(table)
    assert sum(part.blocks for part in parts) == len(space.blocks) - len(fixed)
    assert base.latency_ms == pytest.approx(measured.base_ms)
    assert sum(part.parameters for part in (*parts, base)) == space.parameters


def test_a_fit_that_is_no_good_is_refused_or_marked(fake_table: LatencyTable, tmp_path: Path) -> None:
    space, networks = fake_table.space, drawn(fake_table.space, 80)
    latencies_ms = np.random.default_rng(0).uniform(50, 500, 80)
    with pytest.raises(TableError, match=r"not usable: .*within 10% for .*keep_unusable=True"):
        LatencyTable.fit(space, networks, latencies_ms, device="phone")
    table = LatencyTable.fit(space, networks, latencies_ms, device="phone", keep_unusable=True)
    table.save(tmp_path / "t.yaml")
    provenance = LatencyTable.load(tmp_path / "t.yaml").provenance
    assert str(provenance["fit"]).startswith("not usable: ")
    assert provenance["fit_usable"] == 0


def test_networks_that_do_not_tell_rows_apart_are_refused(fake_table: LatencyTable) -> None:
    space = fake_table.space
    always = [a.with_choice("mid.attention.0", "1") for a in drawn(space, 80)]
    name = space.block("mid.attention.0").signature(fake_table.workload)
    if sum(block.signature(fake_table.workload) == name for block in space.blocks) > 1:
        pytest.fail("the block chosen for this test shares its row with others")
    for keep in (False, True):
        with pytest.raises(TableError, match=f"do not tell .* apart, among them '{name}'"):
            LatencyTable.fit(space, always, fake_table.latencies_ms(always), device="phone", keep_unusable=keep)


def test_tables_of_nonsense_are_refused(fake_table: LatencyTable) -> None:
    space, networks = fake_table.space, drawn(fake_table.space, 40)
    with pytest.raises(TableError, match=r"latencies_ms\[0\] is -1"):
        LatencyTable.fit(space, networks, [-1.0] * 40, device="phone")
    with pytest.raises(TableError, match="too few"):
        LatencyTable.fit(space, networks[:5], [1.0] * 5, device="phone")
    with pytest.raises(ArchitectureError):
        LatencyTable.fit(space, [Architecture.parse("mid.resnet=1,1")], [1.0], device="phone")


def test_the_workload_says_what_was_measured(fake_table: LatencyTable) -> None:
    networks, workload = drawn(fake_table.space, 60), Workload.of(fake_table.space, batch_size=1, precision="fp16")
    latencies_ms = fake_table.latencies_ms(networks)
    table = LatencyTable.fit(fake_table.space, networks, latencies_ms, device="phone", workload=workload)
    table.require(batch_size=1, precision="fp16")
    assert table.provenance["precision"] == "fp16"


def test_the_date_is_that_of_the_measurement_where_it_is_given(fake_table: LatencyTable) -> None:
    networks = drawn(fake_table.space, 60)
    date = {"date": "2025-01-02T03:04:05Z"}
    latencies_ms = fake_table.latencies_ms(networks)
    table = LatencyTable.fit(fake_table.space, networks, latencies_ms, device="phone", provenance=date)
    assert (table.provenance["date"], table.validation.date) == (date["date"], date["date"])


def test_runs_that_the_space_does_not_allow_are_refused(tiny_config: dict) -> None:
    fixed = frozenset({"mid.resnet.0"})
    space = SearchSpace.from_config(tiny_config, name="tiny", context_length=5, fixed=fixed)
    runs = np.random.default_rng(0).integers(0, 3, (80, len(space.blocks)))
    with pytest.raises(ArchitectureError, match="fixed"):
        LatencyTable.fit(space, runs, 10.0 + runs.sum(axis=1), device="phone", keep_unusable=True)


def test_a_space_without_choice_has_no_rows_to_fit(tiny_space: SearchSpace) -> None:
    space = dataclasses.replace(tiny_space, fixed=frozenset(block.place for block in tiny_space.blocks))
    with pytest.raises(TableError, match="every block of 'tiny' is fixed"):
        LatencyTable.fit(space, [space.full] * 3, [1.0, 1.1, 1.2], device="phone")
