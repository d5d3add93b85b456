from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import Supernet
from nas.errors import SearchSpaceError
from nas.supernet import by_depth, constant, ramp, sandwich
from nas.supernet._schedules import as_schedule, probabilities_at

PROBABILITY = st.floats(0, 1)


@given(probability=PROBABILITY, start=PROBABILITY, steps=st.integers(0, 50), step=st.integers(0, 100))
def test_a_ramp_is_the_line_between_its_ends(probability: float, start: float, steps: int, step: int):
    value = ramp(probability, steps, start=start)(step)
    if step >= steps:
        assert value == pytest.approx(probability)
    else:
        assert value == pytest.approx((start * (steps - step) + probability * step) / steps)


def test_a_constant_stays():
    assert {constant(0.3)(step) for step in (0, 1, 10**6)} == {0.3}


def test_by_depth_grows_in_network_order(tiny_space):
    table = by_depth(tiny_space, 0.1, 0.5)(7)
    values = [table[block.place] for block in tiny_space.blocks]
    assert values[0] == pytest.approx(0.1)
    assert values[-1] == pytest.approx(0.5)
    steps = [late - early for early, late in pairwise(values)]
    assert steps == pytest.approx([0.4 / (len(values) - 1)] * len(steps))


def test_tables_leave_the_other_places_and_fixed_ones_alone(tiny_space):
    space = replace(tiny_space, fixed=frozenset({"down.0.resnet.0"}))
    table = {"down.0.resnet.0": 0.5, "mid.attention.0": 0.5}
    [probabilities] = probabilities_at(as_schedule(table), 0, space)
    assert set(probabilities) == set(space.full.places)
    assert {place: p for place, p in probabilities.items() if p} == {"mid.attention.0": 0.5}
    assert probabilities_at(as_schedule(1), 0, space)[0]["down.0.resnet.0"] == 0


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), "0.1", None, True])
def test_what_is_no_probability_is_refused(tiny_unet, tiny_space, wrong: object):
    for given_as in (wrong, {"mid.attention.0": wrong}, lambda step: wrong):
        with pytest.raises(SearchSpaceError, match="between 0 and 1"):
            Supernet(tiny_unet, tiny_space, skip_probability=given_as)


def test_a_place_of_another_network_is_refused(tiny_unet, tiny_space):
    with pytest.raises(SearchSpaceError, match=r"down\.7\.resnet\.0"):
        Supernet(tiny_unet, tiny_space, skip_probability={"down.7.resnet.0": 0.1})


def test_a_sandwich_is_the_full_network_the_smallest_and_some_between(tiny_unet, tiny_space):
    may_go = {"mid.attention.0": 1.0, "down.0.resnet.1": 1.0}
    for smallest, expected in (
        (1.0, tiny_space.empty),
        (may_go, tiny_space.full.remove("mid.attention.0").remove("down.0.resnet.1")),
    ):
        supernet = Supernet(tiny_unet, tiny_space, skip_probability=sandwich(0.5, smallest=smallest, draws=3))
        steps = [supernet.draw_paths() for _ in range(4)]
        assert supernet.step == 4
        for full, least, *between in steps:
            assert full == tiny_space.full
            assert least == expected
            assert len(set(between)) == 3
        assert len({path for _, _, *between in steps for path in between}) == 12
        supernet.step = 2
        assert supernet.draw_paths() == steps[2]


def test_a_sandwich_follows_a_schedule_and_the_fixed_blocks_stay(tiny_unet, tiny_space):
    space = replace(tiny_space, fixed=frozenset({"down.0.resnet.0"}))
    supernet = Supernet(tiny_unet, space, skip_probability=sandwich(ramp(1.0, 4), draws=1))
    counts = [[len(path.removed) for path in supernet.draw_paths()] for _ in range(6)]
    assert counts[0] == [0, 27, 0]
    assert 0 < counts[2][2] < 27
    assert counts[4:] == [[0, 27, 27]] * 2


def test_forward_passes_outside_of_a_training_take_one_path_a_step(tiny_unet, tiny_space):
    supernet = Supernet(tiny_unet, tiny_space, skip_probability=sandwich(0.5, draws=1))
    one_by_one = [supernet.draw_path() for _ in range(6)]
    supernet.step = 0
    assert one_by_one == [supernet.draw_paths()[step % 3] for step in range(6)]


@pytest.mark.parametrize("draws", [-1, 1.5, True])
def test_a_sandwich_of_no_number_of_paths_is_refused(draws: object):
    with pytest.raises(SearchSpaceError, match="draws is"):
        sandwich(0.1, draws=draws)


def test_a_schedule_without_a_path_is_refused(tiny_unet, tiny_space):
    with pytest.raises(SearchSpaceError, match="no path"):
        Supernet(tiny_unet, tiny_space, skip_probability=lambda step: [])
