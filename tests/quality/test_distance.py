"""Distances against double loops, closed forms for Gaussians, and the coverage of their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg

from nas import NasError
from nas.quality import Distance, cmmd, cubic_kernel, frechet_distance, gaussian_kernel, kid, squared_mmd
from nas.quality import _distance as module

Vector = NDArray[np.float64]


def sample(seed: int, *, n: int = 7, m: int = 5, width: int = 3) -> tuple[Vector, Vector]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)), random.normal(0.4, 1.3, size=(m, width))


def looped(first: Vector, second: Vector, kernel) -> float:
    """The unbiased squared MMD by its definition."""
    n, m = len(first), len(second)
    own = [kernel(first[i], first[j]) for i in range(n) for j in range(n) if i != j]
    others = [kernel(second[i], second[j]) for i in range(m) for j in range(m) if i != j]
    across = [kernel(x, y) for x in first for y in second]
    return sum(own) / (n * (n - 1)) + sum(others) / (m * (m - 1)) - 2 * sum(across) / (n * m)


def cubic(x: Vector, y: Vector) -> float:
    return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def gaussian(x: Vector, y: Vector) -> float:
    return 1000 * np.exp(-(np.linalg.norm(x - y) ** 2) / 200)


@pytest.mark.parametrize(("distance", "kernel"), [(kid, cubic), (cmmd, gaussian)])
@pytest.mark.parametrize("rows", [1024, 2])
def test_kernel_distances_are_those_of_a_double_loop(distance, kernel, rows, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    first, second = sample(0)
    assert distance(first, second).value == pytest.approx(looped(first, second, kernel), rel=1e-9)
    assert distance(torch.from_numpy(first).float(), second.tolist()).value == pytest.approx(
        looped(first, second, kernel), rel=1e-4
    )


@pytest.mark.parametrize("distance", [kid, cmmd])
def test_values_are_the_jackknifes(distance):
    first, second = sample(1)
    found = distance(first, second)
    without = [distance(np.delete(first, index, 0), second).value for index in range(len(first))]
    expected = [len(first) * found.value - (len(first) - 1) * value for value in without]
    assert found.generated == pytest.approx(expected, rel=1e-6)
    without = [distance(first, np.delete(second, index, 0)).value for index in range(len(second))]
    expected = [len(second) * found.value - (len(second) - 1) * value for value in without]
    assert found.real == pytest.approx(expected, rel=1e-6)


def test_a_set_and_itself_are_two_sets():
    # Of all pairs, those of a picture with itself count across the sets: the unbiased estimate is then below zero.
    first, _ = sample(2)
    assert kid(first, first).value == pytest.approx(looped(first, first, cubic))
    assert kid(first, first).value < 0


def expected_cubic(mean: Vector, covariance: Vector, other: Vector, others: Vector) -> float:
    """E(x·y / d + 1)^3 for two independent Gaussians, from their raw moments."""
    width = len(mean)

    def second(m: Vector, c: Vector) -> Vector:
        return c + np.outer(m, m)

    def third(m: Vector, c: Vector) -> Vector:
        mixed = np.einsum("ij,k->ijk", c, m)
        return np.einsum("i,j,k->ijk", m, m, m) + mixed + mixed.transpose(0, 2, 1) + mixed.transpose(2, 1, 0)

    powers = (
        mean @ other,
        np.sum(second(mean, covariance) * second(other, others)),
        np.sum(third(mean, covariance) * third(other, others)),
    )
    return powers[2] / width**3 + 3 * powers[1] / width**2 + 3 * powers[0] / width + 1


def expected_gaussian(mean: Vector, covariance: Vector, other: Vector, others: Vector, *, sigma: float = 1.5) -> float:
    both, shift = covariance + others, mean - other
    spread = np.eye(len(mean)) + both / sigma**2
    return np.exp(-0.5 * shift @ np.linalg.solve(spread, shift) / sigma**2) / np.linalg.det(spread) ** 0.5


def narrow(left: Vector, right: Vector) -> Vector:
    return gaussian_kernel(left, right, sigma=1.5)


KERNELS = [(cubic_kernel, expected_cubic), (narrow, expected_gaussian)]
NEAR = (np.zeros(3), np.diag([1.0, 0.8, 1.2]))
FAR = (np.array([0.5, -0.3, 0.2]), np.array([[1.4, 0.3, 0.0], [0.3, 0.9, -0.2], [0.0, -0.2, 0.7]]))


def population(expected, first: tuple[Vector, Vector], second: tuple[Vector, Vector]) -> float:
    return expected(*first, *first) + expected(*second, *second) - 2 * expected(*first, *second)


def draws(first: tuple[Vector, Vector], second: tuple[Vector, Vector], *, n: int, m: int, repeats: int):
    random = np.random.default_rng(3)
    for _ in range(repeats):
        yield random.multivariate_normal(*first, size=n), random.multivariate_normal(*second, size=m)


# The cubic kernel has values far out now and then, which a sample of this size may lack.
@pytest.mark.parametrize(("kernel", "expected", "least"), [(*KERNELS[0], 0.89), (*KERNELS[1], 0.92)])
def test_intervals_hold_the_populations_distance_about_as_often_as_they_say(kernel, expected, least):
    truth = population(expected, NEAR, FAR)
    found = [squared_mmd(*pair, kernel) for pair in draws(NEAR, FAR, n=80, m=60, repeats=400)]
    values = np.array([distance.value for distance in found])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 400**0.5)
    covered = np.mean([distance.low <= truth <= distance.high for distance in found])
    assert least <= covered <= 0.98
    # An interval from the generated pictures alone would be far too narrow.
    alone = np.mean([abs(d.value - truth) <= 1.96 * d.generated.std() / 80**0.5 for d in found])
    assert alone < covered - 0.05


def test_intervals_of_unit_vectors_hold_the_distance_of_many():
    """Features as CLIP gives them: no closed form, so the truth is the distance of fifty times as many."""
    random = np.random.default_rng(5)

    def unit(shift: float, count: int) -> Vector:
        rows = random.normal(size=(count, 16)) * np.linspace(2, 0.5, 16) + np.where(np.arange(16) < 4, 1, shift)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    truth = cmmd(unit(0, 2500), unit(0.5, 2500)).value, kid(4 * unit(0, 2500), 4 * unit(0.5, 2500)).value
    covered = []
    for _ in range(250):
        first, second = unit(0, 50), unit(0.5, 50)
        found = cmmd(first, second), kid(4 * first, 4 * second)
        covered.append([one.low <= true <= one.high for one, true in zip(found, truth, strict=True)])
    assert all(0.92 <= share <= 0.99 for share in np.mean(covered, axis=0))


@pytest.mark.parametrize(("kernel", "expected"), KERNELS)
def test_intervals_err_on_the_wide_side_where_nothing_differs(kernel, expected):
    assert population(expected, FAR, FAR) == pytest.approx(0, abs=1e-12)
    found = [squared_mmd(*pair, kernel) for pair in draws(FAR, FAR, n=50, m=50, repeats=300)]
    assert np.mean([distance.low <= 0 <= distance.high for distance in found]) >= 0.95
    values = np.array([distance.value for distance in found])
    assert values.mean() == pytest.approx(0, abs=4 * values.std() / 300**0.5)


@pytest.mark.parametrize(("kernel", "expected"), KERNELS)
def test_paired_differences_hold_the_populations_and_are_narrower(kernel, expected):
    """Two models of nearly the same pictures: what they share cancels."""
    random, further = np.random.default_rng(4), (NEAR[0] + 0.25, NEAR[1])
    truth = population(expected, further, FAR) - population(expected, NEAR, FAR)
    covered, widths = [], []
    for first, real in draws(NEAR, FAR, n=80, m=60, repeats=300):
        one, two = squared_mmd(first + 0.25, real, kernel), squared_mmd(first, real, kernel)
        difference = one.minus(two)
        assert difference.mean == pytest.approx(one.value - two.value)
        covered.append(difference.low <= truth <= difference.high)
        stranger = squared_mmd(random.multivariate_normal(*NEAR, size=80), real, kernel)
        widths.append((difference.high - difference.low) / (one.minus(stranger).high - one.minus(stranger).low))
    assert 0.91 <= np.mean(covered) <= 0.985
    assert np.mean(widths) < 0.8


def frechet(first: tuple[Vector, Vector], second: tuple[Vector, Vector]) -> float:
    """Of two Gaussians, by scipy's matrix square root."""
    root = np.real(linalg.sqrtm(first[1] @ second[1]))
    return float(np.sum((first[0] - second[0]) ** 2) + np.trace(first[1] + second[1] - 2 * root))


def moments(features: Vector) -> tuple[Vector, Vector]:
    return features.mean(0), np.cov(features, rowvar=False)


def test_frechet_distance_is_that_of_the_samples_moments():
    first, second = sample(5, n=30, m=25)
    assert frechet_distance(first, second).value == pytest.approx(frechet(moments(first), moments(second)))
    assert frechet_distance(first, first + 2).value == pytest.approx(12)
    assert frechet_distance(first, first).value == pytest.approx(0, abs=1e-9)
    # With one feature it is the difference of means and of standard deviations.
    one, two = first[:, :1], second[:, :1]
    expected = (one.mean() - two.mean()) ** 2 + (one.std(ddof=1) - two.std(ddof=1)) ** 2
    assert frechet_distance(one, two).value == pytest.approx(expected)


def test_frechet_distances_values_are_its_derivatives():
    """How the distance changes when a picture counts a little more, by moments with weights."""
    first, second = sample(6, n=12, m=10)

    def distance(weights: Vector, features: Vector, other: tuple[Vector, Vector]) -> float:
        share = weights / weights.sum()
        mean = share @ features
        # A sample's covariance is larger than its distribution's by n / (n - 1).
        covariance = (features - mean).T @ ((features - mean) * share[:, None]) * len(features) / (len(features) - 1)
        return frechet((mean, covariance), other)

    found, small = frechet_distance(first, second), 1e-5
    for features, other, values in ((first, second, found.generated), (second, first, found.real)):
        for index in range(len(features)):
            weights = [np.full(len(features), 1.0) for _ in range(2)]
            weights[0][index] += small
            weights[1][index] -= small
            change = distance(weights[0], features, moments(other)) - distance(weights[1], features, moments(other))
            slope = change / (2 * small) * len(features)
            assert values[index] - found.value == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_frechet_intervals_hold_the_populations_distance():
    truth = frechet(NEAR, FAR)
    found = [frechet_distance(*pair) for pair in draws(NEAR, FAR, n=400, m=300, repeats=300)]
    covered = np.mean([distance.low <= truth <= distance.high for distance in found])
    assert 0.90 <= covered <= 0.98


def test_frechet_distance_of_fewer_pictures_than_features_has_no_bounds():
    first, second = sample(7, n=4, m=5, width=6)
    found = frechet_distance(first, second)
    # scipy warns of singular matrices, so by the singular values of the product of roots, which are as many.
    roots = [np.linalg.svd(side - side.mean(0)) for side in (first, second)]
    halves = [
        (right.T[:, : len(values)] * values) / (len(side) - 1) ** 0.5
        for side, (_, values, right) in zip((first, second), roots, strict=True)
    ]
    trace = np.linalg.svd(halves[0].T @ halves[1], compute_uv=False).sum()
    shift = first.mean(0) - second.mean(0)
    expected = shift @ shift + sum(np.trace(moments(side)[1]) for side in (first, second)) - 2 * trace
    assert found.value == pytest.approx(expected)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert found.minus(found).high == np.inf


def test_two_pictures_have_no_bounds():
    first, second = sample(8, n=2)
    found = kid(first, second)
    assert found.value == pytest.approx(looped(first, second, cubic))
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_distances_without_any_scatter():
    found = Distance.of([2.0] * 4, [2.0] * 5)
    assert (found.value, found.low, found.high) == (2, 2, 2)
    tiny = Distance.of([1e-120, 3e-120, 2e-120], [2e-120] * 3)
    assert tiny.low < tiny.value < tiny.high


def test_json_round_trip():
    found = kid(*sample(9))
    again = Distance.from_dict(json.loads(json.dumps(found.to_dict())))
    assert (again.value, again.low, again.high) == (found.value, found.low, found.high)
    with pytest.raises(ValueError, match="read-only"):
        found.generated[0] = 1


def test_bad_features():
    first, second = sample(10)
    for bad, sentence in (
        (first[:1], "at least two rows"),
        (first[:, 0], "at least two rows"),
        (first[:, :2], "have 2 columns, of real ones 3"),
        (np.where(first == first.max(), np.nan, first), "not all finite"),
    ):
        for distance in (kid, cmmd, frechet_distance):
            with pytest.raises(NasError, match=sentence):
                distance(bad, second)
    with pytest.raises(NasError, match="cannot be paired"):
        kid(first, second).minus(kid(first[:-1], second))
    with pytest.raises(NasError, match="finite"):
        Distance.of([], [1.0])
