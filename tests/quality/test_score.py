from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from nas import NasError
from nas.quality import Score

VALUES = arrays(np.float64, st.integers(2, 30), elements=st.floats(-10, 10, width=32))


@settings(max_examples=25)
@given(VALUES)
def test_interval_is_students_t(values):
    score = Score.of(values)
    assert score.mean == pytest.approx(values.mean())
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), max(stats.sem(values), 1e-300))
    assert (score.low, score.high) == pytest.approx((low, high), abs=1e-9)


def test_one_value_has_no_bounds():
    score = Score.of([0.3])
    assert (score.mean, score.low, score.high) == (0.3, -np.inf, np.inf)
    assert not score.minus(Score.of([0.1])).settled


@settings(max_examples=25)
@given(VALUES, st.integers(0, 2**32 - 1))
def test_difference_is_paired(values, seed):
    changes = np.random.default_rng(seed).normal(size=len(values))
    difference = Score.of(values + changes).minus(Score.of(values))
    test = stats.ttest_rel(values + changes, values)
    assert difference.mean == pytest.approx(changes.mean(), abs=1e-6)
    assert difference.settled == (test.pvalue < 0.05)


@settings(max_examples=25)
@given(VALUES)
def test_difference_to_itself_is_not_settled(values):
    difference = Score.of(values).minus(Score.of(values))
    assert (difference.mean, difference.low, difference.high, difference.settled) == (0, 0, 0, False)


@settings(max_examples=25)
@given(VALUES, VALUES)
def test_difference_is_antisymmetric_and_needs_equal_samples(one, other):
    if len(one) != len(other):
        with pytest.raises(NasError, match="cannot be paired"):
            Score.of(one).minus(Score.of(other))
    else:
        there, back = Score.of(one).minus(Score.of(other)), Score.of(other).minus(Score.of(one))
        assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))


def test_joined_is_the_score_of_all_values():
    both = Score.of([1.0, 2.0], seconds=1).joined(Score.of([4.0], seconds=2))
    assert both.values.tolist() == [1, 2, 4]
    assert (both.mean, both.low, both.seconds) == (Score.of([1, 2, 4]).mean, Score.of([1, 2, 4]).low, 3)


@settings(max_examples=25)
@given(VALUES)
def test_json_round_trip(values):
    score = Score.of(values, seconds=0.5)
    again = Score.from_dict(json.loads(json.dumps(score.to_dict())))
    assert (again.mean, again.low, again.high, again.seconds) == (score.mean, score.low, score.high, 0.5)
    assert np.array_equal(again.values, score.values)


@pytest.mark.parametrize("values", [[], [np.nan], [[1.0, 2.0]], [np.inf, 1.0]])
def test_bad_values(values):
    with pytest.raises(NasError, match="finite"):
        Score.of(values)


def test_values_are_not_changed_from_outside():
    values = np.array([1.0, 2.0])
    score = Score.of(values)
    values[0] = 9
    assert score.values[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        score.values[0] = 9
