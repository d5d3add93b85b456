"""The corrections on a table whose blocks all take the same share of their rows: what each must find is known."""

from __future__ import annotations

import random

import pytest
from benchmark_scripts import loaded
from tables import table_of

from nas import LatencyTable, SearchSpace
from nas.latency import Pair, Row, Validation

SHARE = 0.8


def test_what_a_factor_explains_every_correction_with_a_free_factor_finds(tiny_space: SearchSpace) -> None:
    rows, rng = table_of(tiny_space), random.Random(0)

    def truth_ms(network) -> float:
        return rows.base_ms + SHARE * (rows.latency_ms(network) - rows.base_ms)

    wholes = {network: Row(truth_ms(network), 0.0, 3) for network in (tiny_space.sample(rng) for _ in range(5))}
    table = LatencyTable(tiny_space, rows.workload, rows.rows, rows.base, rows.provenance, wholes=wholes)
    unseen = [tiny_space.sample(rng) for _ in range(6)]
    table.validation = Validation(tuple(Pair(str(each), table.latency_ms(each), truth_ms(each)) for each in unseen))
    with loaded("lut_corrections") as script:
        errors = script.errors_of(table)
    as_measured = sum(rows.latency_ms(each) / truth_ms(each) - 1 for each in unseen) / len(unseen)
    assert errors.pop("rows as measured") == pytest.approx(as_measured)
    assert errors.pop("half the median factor's, half MACs x a constant") > 0.01
    # The ridge holds it back, but it goes most of the way.
    assert 1e-4 < errors.pop("a factor drawn towards 1") < 0.3 * as_measured
    assert errors == {name: pytest.approx(0, abs=1e-6) for name in errors}
    assert len(errors) == 5
