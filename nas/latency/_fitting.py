"""Rows from whole networks alone: least squares, and whether to believe what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from nas.errors import TableError
from nas.latency._ranks import spearman

# What nn-Meter (MobiSys 2021) counts as a correct prediction, and how many of them, and how ranked, are enough.
NEAR, NEAR_SHARE, LEAST_SPEARMAN = 0.10, 0.90, 0.90
_FOLDS, _MANY_FOLDS = 10, 100
# A projection's diagonal is 1 where a row is determined; what rounding takes off is far less than this.
_ROUNDING = 1e-8


@dataclass(frozen=True, eq=False)
class FittedRows:
    """A base and rows of which whole networks' latencies are sums, as far as the networks tell.

    Where networks do not tell rows apart (in FBNet one option of each layer always runs, so that a layer's rows could
    all be shifted against the base), the rows are the solution of least norm: predictions for networks like those
    given are unique, those rows are not, and `identifiable` says which.

    Attributes:
        rows_ms: what each row adds for each count, in ms; [rows].
        base_ms: what a network without any row takes, in ms.
        stderr_ms: standard error of each row, in ms, from the residuals; [rows]. Of a row that is not identifiable it
            is the error of the part that the networks determine (in FBNet what an option takes more than its layer's
            average), and infinite where they determine nothing, as when all have the same count.
        base_stderr_ms: standard error of the base, in the same sense.
        identifiable: whether the networks determine the row by itself; [rows].
        r2: share of the variance of the networks given that the fit explains.
        held_out_ms: predictions of each network by a fit to others, in ms; [networks].
        mean_error: of those predictions, mean of |predicted / measured - 1|.
        within_10: share of those predictions that are within 10 %.
        spearman: rank correlation of those predictions and the measurements.
        usable: whether within_10 is at least 0.9 and spearman at least 0.9.
        reason: why it is usable or not, a sentence.
    """

    rows_ms: np.ndarray
    base_ms: float
    stderr_ms: np.ndarray
    base_stderr_ms: float
    identifiable: np.ndarray
    r2: float
    held_out_ms: np.ndarray
    mean_error: float
    within_10: float
    spearman: float
    usable: bool
    reason: str

    def predict_ms(self, counts: Any) -> np.ndarray:
        """Latencies of networks in ms, [networks], from counts [networks x rows].

        Raises:
            TableError: counts has another shape, or holds something that is no count.
        """
        counts = _checked_counts(counts)
        if counts.shape[1] != len(self.rows_ms):
            raise TableError(f"counts has {counts.shape[1]} columns; it must have {len(self.rows_ms)}, one a row")
        return self.base_ms + counts @ self.rows_ms


def fit_rows(counts: Any, latencies_ms: Any, *, positive: bool = False, seed: int = 0) -> FittedRows:
    """Fit a base and a row for each column of `counts` to the latencies of whole networks, by least squares.

    The fit is judged by cross-validation: in ten parts, or up to a hundred where networks are few, and networks with
    equal counts always in the same part. Usable is a fit whose predictions are within 10 % for 90 % of the networks
    (nn-Meter, https://dl.acm.org/doi/10.1145/3458864.3467882, reports 99 % for CNNs) and rank them with a Spearman
    correlation of at least 0.9.

    Args:
        counts: how often each row counts in each network, [networks x rows].
        latencies_ms: what the networks take end to end, in ms, [networks].
        positive: let no row be less than 0, which noise can otherwise do to small rows; standard errors remain those of
            the fit without this bound.
        seed: of the parts of the cross-validation.

    Raises:
        TableError: shapes do not fit, a number is not finite, a count is negative, a latency is not more than 0, or
            there are too few networks to tell an error.
    """
    counts, latencies_ms = _checked_counts(counts), _checked_latencies(latencies_ms)
    if len(counts) != len(latencies_ms):
        raise TableError(f"counts has {len(counts)} networks but latencies_ms has {len(latencies_ms)}")
    solution = _Solution.of(counts, latencies_ms, positive=positive)
    freedom = len(counts) - solution.rank - 1
    if freedom < 1:
        raise TableError(
            f"{len(counts)} networks are too few for {counts.shape[1]} rows and a base, nothing is left to tell the "
            f"error by; measure at least {counts.shape[1] + 2}, better twice as many"
        )
    residuals = latencies_ms - solution.predict_ms(counts)
    variance = float(residuals @ residuals) / freedom
    held_out_ms = _held_out(counts, latencies_ms, solution.rank, positive=positive, seed=seed)
    return FittedRows(
        rows_ms=solution.rows_ms,
        base_ms=solution.base_ms,
        stderr_ms=np.where(solution.determined > _ROUNDING, np.sqrt(variance * solution.leverage), np.inf),
        base_stderr_ms=float(np.sqrt(variance * (1 / len(counts) + solution.base_leverage))),
        identifiable=solution.determined > 1 - _ROUNDING,
        r2=_r2(residuals, latencies_ms),
        held_out_ms=held_out_ms,
        **_judged(held_out_ms, latencies_ms),
    )


@dataclass(frozen=True, eq=False)
class _Solution:
    # Counts are centred, so that the base drops out, and taken apart into singular vectors: rows of `directions`
    # [rank x rows] are what the networks determine, `scales` [rank] how well.
    rows_ms: np.ndarray
    base_ms: float
    centre: np.ndarray
    directions: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, latencies_ms: np.ndarray, *, positive: bool) -> _Solution:
        centre, middle_ms = counts.mean(axis=0), latencies_ms.mean()
        left, scales, directions = np.linalg.svd(counts - centre, full_matrices=False)
        # Against the counts as they are: a constant column leaves only rounding behind.
        rank = int((scales > max(counts.shape) * np.finfo(float).eps * np.linalg.norm(counts)).sum())
        left, scales, directions = left[:, :rank], scales[:rank], directions[:rank]
        projected_ms = left.T @ (latencies_ms - middle_ms)
        rows_ms = directions.T @ (projected_ms / scales)
        if positive and rank and rows_ms.min() < 0:
            rows_ms = nnls(scales[:, None] * directions, projected_ms)[0]
        return cls(rows_ms, float(middle_ms - centre @ rows_ms), centre, directions, scales)

    @property
    def rank(self) -> int:
        return len(self.scales)

    @property
    def determined(self) -> np.ndarray:
        return (self.directions**2).sum(axis=0)

    @property
    def leverage(self) -> np.ndarray:
        return ((self.directions / self.scales[:, None]) ** 2).sum(axis=0)

    @property
    def base_leverage(self) -> float:
        return float((((self.directions @ self.centre) / self.scales) ** 2).sum())

    def predict_ms(self, counts: np.ndarray) -> np.ndarray:
        return self.base_ms + counts @ self.rows_ms


def _held_out(counts: np.ndarray, latencies_ms: np.ndarray, rank: int, *, positive: bool, seed: int) -> np.ndarray:
    predicted_ms = np.empty_like(latencies_ms)
    for held_out in _parts(counts, rank, seed):
        others = _Solution.of(counts[~held_out], latencies_ms[~held_out], positive=positive)
        predicted_ms[held_out] = others.predict_ms(counts[held_out])
    return predicted_ms


def _parts(counts: np.ndarray, rank: int, seed: int) -> Iterator[np.ndarray]:
    # A network measured twice must not predict itself, so equal counts stay together.
    distinct, group = np.unique(counts, axis=0, return_inverse=True)
    # Where networks are few, a tenth less of them could no longer tell the rows apart.
    folds = min(len(distinct), _FOLDS if len(distinct) >= 2 * (rank + 1) else _MANY_FOLDS)
    if folds < 2:
        raise TableError(f"all {len(counts)} networks have the same counts; measure networks that differ")
    part = np.random.default_rng(seed).permutation(len(distinct)) % folds
    yield from (part[group.ravel()] == fold for fold in range(folds))


def _r2(residuals_ms: np.ndarray, latencies_ms: np.ndarray) -> float:
    total = float(((latencies_ms - latencies_ms.mean()) ** 2).sum())
    # Where all networks take the same there is nothing to explain.
    return 1 - float(residuals_ms @ residuals_ms) / total if np.ptp(latencies_ms) > 0 else 0.0


def _judged(predicted_ms: np.ndarray, measured_ms: np.ndarray) -> dict[str, Any]:
    errors = np.abs(predicted_ms / measured_ms - 1)
    mean, near, ranks = float(errors.mean()), float((errors <= NEAR).mean()), spearman(predicted_ms, measured_ms)
    close = f"are within {NEAR:.0%} for {near:.1%} of {len(errors)} networks (wanted: {NEAR_SHARE:.0%})"
    ranked = f"rank them with a Spearman correlation of {ranks:.3f} (wanted: {LEAST_SPEARMAN})"
    wanted = {close: near >= NEAR_SHARE, ranked: ranks >= LEAST_SPEARMAN}
    usable = all(wanted.values())
    said = " and ".join(text for text, met in wanted.items() if usable or not met)
    reason = f"{'usable' if usable else 'not usable'}: cross-validated predictions {said}; the mean error is {mean:.2%}"
    if not usable:
        reason += ". Measure more networks, each longer, or give rows of which this device's latency is rather a sum"
    return {"mean_error": mean, "within_10": near, "spearman": ranks, "usable": usable, "reason": reason}


def _checked_counts(counts: Any) -> np.ndarray:
    counts = _numbers("counts", counts)
    if counts.ndim != 2 or counts.size == 0:
        raise TableError(f"counts has the shape {counts.shape}; it must be [networks x rows], none of them 0")
    if counts.min() < 0:
        raise TableError(f"counts[{_where(counts < 0)}] is negative; a row counts 0 times or more")
    return counts


def _checked_latencies(latencies_ms: Any) -> np.ndarray:
    latencies_ms = _numbers("latencies_ms", latencies_ms)
    if latencies_ms.ndim != 1:
        raise TableError(f"latencies_ms has the shape {latencies_ms.shape}; it must be [networks]")
    if (latencies_ms <= 0).any():
        where = _where(latencies_ms <= 0)
        raise TableError(f"latencies_ms[{where}] is {latencies_ms[int(where)]}; a latency is more than 0")
    return latencies_ms


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TableError(f"{name} is no array of numbers: {error}") from error
    if not np.isfinite(array).all():
        raise TableError(f"{name}[{_where(~np.isfinite(array))}] is not a finite number")
    return array


def _where(wrong: np.ndarray) -> str:
    return ", ".join(str(index) for index in np.argwhere(wrong)[0])
