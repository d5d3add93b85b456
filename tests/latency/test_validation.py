from __future__ import annotations

import copy
import dataclasses
import math
import random

import pytest
import torch
from diffusers import UNet2DConditionModel
from scipy.stats import spearmanr

from nas import Architecture, LatencyTable, SearchSpace
from nas.errors import TableError
from nas.latency import Pair, Timing, Validation
from nas.latency._random_networks import distinct_architectures
from nas.latency.testing import FakeDevice

TEXT = "mid.resnet=1,1"


def test_the_figures_of_a_small_case() -> None:
    pairs = [Pair(TEXT, p, m) for p, m in [(104, 100), (93, 100), (250, 200), (30, 30)]]
    validation = Validation(tuple(pairs))
    assert validation.errors == pytest.approx([0.04, -0.07, 0.25, 0.0])
    assert validation.mean_error == pytest.approx(0.36 / 4)
    assert validation.worst_error == pytest.approx(0.25)
    assert (validation.within_5, validation.within_10) == (0.5, 0.75)


def test_underprediction_is_the_quantile_of_how_much_slower_networks_were() -> None:
    slower = [-0.02, 0.0, 0.01, 0.04, 0.1]
    validation = Validation(tuple(Pair(TEXT, 100.0, 100 * (1 + part)) for part in slower))
    assert validation.underprediction(0.5) == pytest.approx(0.01)
    assert validation.underprediction(0.75) == pytest.approx(0.04)
    assert validation.underprediction(1.0) == pytest.approx(0.1)
    # A table that predicts too much needs no margin, and gives no licence to go over the budget either.
    assert validation.underprediction(0.1) == 0
    for quantile in (0.5, 0.75, 1.0):
        within = [pair.measured_ms <= 100 * (1 + validation.underprediction(quantile)) for pair in validation.pairs]
        assert sum(within) / len(within) >= quantile


@pytest.mark.parametrize("quantile", [0, -0.1, 1.01, math.nan, "0.9", None, True])
def test_a_quantile_is_a_share(quantile: object) -> None:
    with pytest.raises(TableError, match="quantile"):
        Validation((Pair(TEXT, 1.0, 1.0),)).underprediction(quantile)


def test_rank_correlation_is_that_of_scipy() -> None:
    rng = random.Random(0)
    pairs = [Pair(TEXT, rng.randint(1, 9), rng.randint(1, 9)) for _ in range(30)]
    expected = spearmanr([p.predicted_ms for p in pairs], [p.measured_ms for p in pairs]).statistic
    assert Validation(tuple(pairs)).spearman == pytest.approx(expected)


def test_nothing_is_ranked_by_a_constant() -> None:
    assert Validation((Pair(TEXT, 5, 4), Pair(TEXT, 5, 6))).spearman == 0.0
    assert Validation((Pair(TEXT, 5, 4),)).spearman == 0.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_times_are_refused(value: float) -> None:
    with pytest.raises(TableError, match="measured_ms"):
        Pair(TEXT, 1.0, value)
    with pytest.raises(TableError, match="predicted_ms"):
        Pair(TEXT, value, 1.0)


def test_an_additive_device_is_predicted_without_error(
    fake_table: LatencyTable, tiny_unet: UNet2DConditionModel
) -> None:
    table = copy.copy(fake_table)
    validation = table.validate(tiny_unet, networks=4, seed=1, device=FakeDevice())
    assert validation is table.validation
    assert validation.worst_error == pytest.approx(0, abs=1e-6)
    assert validation.summary()["networks"] == 4
    for pair in validation.pairs:
        assert table.latency_ms(Architecture.parse(pair.architecture)) == pytest.approx(pair.predicted_ms)


def test_a_cost_for_each_call_is_seen_as_error(
    tiny_space: SearchSpace, tiny_unet: UNet2DConditionModel, quick: Timing
) -> None:
    # Base and rows count the launch once for the base and once a block, the whole network has it once.
    call_ms = 0.5
    measured = LatencyTable.measure(tiny_space, device=FakeDevice(call_ms=call_ms), timing=quick)
    table = dataclasses.replace(measured, wholes={})
    validation = table.validate(tiny_unet, networks=3, seed=1, device=FakeDevice(call_ms=call_ms))
    for pair in validation.pairs:
        architecture = Architecture.parse(pair.architecture)
        kept = [block for block in tiny_space.blocks if architecture.runs(block)]
        too_often = len(kept) - sum(block.has_shortcut for block in kept)
        assert pair.predicted_ms - pair.measured_ms == pytest.approx(call_ms * too_often)
    # What a few networks take end to end makes up for most of it.
    in_context = measured.validate(tiny_unet, networks=3, seed=1, device=FakeDevice(call_ms=call_ms))
    assert in_context.mean_error < validation.mean_error / 4


def test_the_weights_given_are_used_and_left_alone(fake_table: LatencyTable, tiny_unet: UNet2DConditionModel) -> None:
    table = copy.copy(fake_table)
    tiny_unet.train()
    before = {name: value.clone() for name, value in tiny_unet.state_dict().items()}
    parameters = list(tiny_unet.parameters())
    device = FakeDevice()
    with_weights = table.validate(tiny_unet, networks=2, seed=4, device=device)
    assert with_weights.pairs == table.validate(networks=2, seed=4, device=FakeDevice()).pairs
    assert tiny_unet.training
    assert all(new is old for new, old in zip(tiny_unet.parameters(), parameters, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in tiny_unet.state_dict().items())


def test_networks_held_out_are_measured_along_with_the_rows_and_are_those_of_a_later_validation(
    tiny_space: SearchSpace, fake_table: LatencyTable, quick: Timing
) -> None:
    call_ms, networks = 0.5, {"held_out": 4, "seed": 3}
    device, alone = FakeDevice(call_ms=call_ms), FakeDevice(call_ms=call_ms)
    table = LatencyTable.measure(tiny_space, device=device, timing=quick, **networks)
    without = LatencyTable.measure(tiny_space, device=alone, timing=quick)
    # The table knows no more for them.
    assert len(device.loaded) == len(alone.loaded) + 4
    assert (table.rows, table.base, table.wholes) == (without.rows, without.base, without.wholes)
    assert without.validation is None
    later = without.validate(networks=4, seed=3, device=FakeDevice(call_ms=call_ms), timing=quick)
    assert table.validation.pairs == later.pairs
    assert (table.validation.seed, table.validation.slowdown) == (3, None)
    assert table.validation.worst_error > 0
    assert not set(table.wholes) & {Architecture.parse(pair.architecture) for pair in table.validation.pairs}


@pytest.mark.parametrize("number", [-1, 2.5, "20", True])
def test_a_number_of_networks_held_out_is_required(tiny_space: SearchSpace, number: object) -> None:
    with pytest.raises(TableError, match="held_out is"):
        LatencyTable.measure(tiny_space, device=FakeDevice(), held_out=number)


def test_held_out_networks_are_distinct_spread_and_seeded(tiny_space: SearchSpace) -> None:
    drawn = list(distinct_architectures(tiny_space, 30, 5))
    assert len(set(drawn)) == 30
    assert not {tiny_space.full, tiny_space.empty} & set(drawn)
    assert drawn == list(distinct_architectures(tiny_space, 30, 5))
    assert drawn != list(distinct_architectures(tiny_space, 30, 6))
    kept = [len(tiny_space.blocks) - len(a.removed) for a in drawn]
    assert min(kept) < 0.4 * len(tiny_space.blocks) < 0.8 * len(tiny_space.blocks) < max(kept)


@pytest.mark.parametrize("networks", [0, -3, 2.5, "20", True])
def test_a_number_of_networks_is_required(fake_table: LatencyTable, networks: object) -> None:
    with pytest.raises(TableError, match="networks"):
        fake_table.validate(networks=networks, device=FakeDevice())


def test_a_rival_prediction_is_judged_on_the_same_networks() -> None:
    validation = Validation((Pair(TEXT, 110, 100), Pair(TEXT, 90, 80)))
    rival = validation.repredicted(lambda pair: pair.measured_ms / 2)
    assert rival.mean_error == pytest.approx(0.5)
    assert [pair.measured_ms for pair in rival.pairs] == [100, 80]
