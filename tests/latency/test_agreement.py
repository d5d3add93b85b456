from __future__ import annotations

import copy
import dataclasses

import pytest
from diffusers import UNet2DConditionModel
from torch import nn

from nas import LatencyTable
from nas.errors import TableError
from nas.latency import Agreement, Pair, Validation, agreement
from nas.latency.testing import FakeDevice

TEXT = "mid.resnet=1,1"


def judged(errors: list[float], drift: float | None) -> Agreement:
    """Networks of 100 ms, predicted with these errors on a machine that is slower by `drift`."""
    return Agreement(Validation(tuple(Pair(TEXT, 100 * (1 + error), 100.0, drift or 0.0) for error in errors)), drift)


@pytest.mark.parametrize(
    ("errors", "drift", "agrees"),
    [
        ([0.0] * 10, 0.0, True),
        ([0.09] * 9 + [0.5], 0.09, True),  # nine of ten within a tenth
        ([0.09] * 8 + [0.5] * 2, 0.0, False),
        ([0.01] * 10, 0.11, False),
        ([0.01] * 10, -0.11, False),
        ([0.01] * 10, None, True),
        ([0.2] * 10, None, False),
    ],
)
def test_prediction_and_canary_decide(errors: list[float], drift: float | None, agrees: bool) -> None:
    found = judged(errors, drift)
    assert found.agrees is agrees
    assert ("still agrees" in str(found)) is agrees
    assert "\n" not in str(found)
    assert str(found).endswith(".")


def test_the_sentence_says_what_is_wrong() -> None:
    slow = judged([-1 / 6] * 10, 0.2)  # 83.3 ms predicted, 100 measured, on a machine 1.2 times as slow
    assert slow.mean_error_at_equal_speed == pytest.approx(0)
    assert "20.0% slower" in str(slow)
    assert "at equal speed the mean error would be 0.0%" in str(slow)
    assert "measure a new table" in str(judged([0.3] * 10, 0.0))
    assert "not known" in str(judged([0.0], None))
    assert "5.0% faster" in str(judged([0.0], -0.05))


@pytest.mark.parametrize(("speed", "agrees"), [(1.0, True), (1.05, True), (1.4, False)])
def test_a_machine_that_became_slower_no_longer_agrees(fake_table: LatencyTable, speed: float, agrees: bool) -> None:
    table = copy.copy(fake_table)
    table.validate(networks=3, seed=1, device=FakeDevice(speed=lambda clock_ms: speed))
    found = agreement(table)
    assert found.drift == pytest.approx(speed - 1)
    assert found.agrees is agrees
    assert found.mean_error_at_equal_speed == pytest.approx(0, abs=1e-6)


def test_a_table_that_does_not_know_how_fast_its_machine_was(fake_table: LatencyTable) -> None:
    provenance = {name: value for name, value in fake_table.provenance.items() if name != "canary_ms"}
    table = dataclasses.replace(fake_table, provenance=provenance, wholes={})
    table.validate(networks=2, seed=1, device=FakeDevice())
    assert agreement(table).drift is None
    assert agreement(table).agrees


def test_the_full_network_speaks_for_the_machine_where_the_table_knows_it(fake_table: LatencyTable) -> None:
    """Disturbed in a way that the canary does not feel, networks take 1.3 times as long."""

    class Crowded(FakeDevice):
        def cost_ms(self, module: nn.Module) -> float:
            return super().cost_ms(module) * (1.3 if isinstance(module, UNet2DConditionModel) else 1.0)

    table = copy.copy(fake_table)
    table.validate(networks=3, seed=1, device=Crowded())
    assert table.validation.slowdown == pytest.approx(0.3)
    assert table.validation.at_equal_speed().mean_error == pytest.approx(0, abs=1e-6)
    found = agreement(table)
    assert found.drift == table.validation.slowdown
    assert not found.agrees

    table = dataclasses.replace(fake_table, wholes={})
    table.validate(networks=3, seed=1, device=Crowded())
    assert table.validation.slowdown is None
    assert agreement(table).drift == pytest.approx(0)


def test_a_table_without_validation_has_nothing_to_agree_with(fake_table: LatencyTable) -> None:
    with pytest.raises(TableError, match="not validated"):
        agreement(dataclasses.replace(fake_table, validation=None))
