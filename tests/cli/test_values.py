"""What people type after an option."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cli._values import Budget, budget, count, milliseconds, natural, number, quantile


@pytest.mark.parametrize(
    ("text", "expected"),
    [("60%", 60.0), ("60 %", 60.0), ("12.5ms", 12.5), ("12.5", 12.5), (" 7 MS ", 7.0), ("150%", 150.0)],
)
def test_budget_is_a_share_or_milliseconds(text: str, expected: float) -> None:
    assert budget(text).in_ms(100.0) == pytest.approx(expected)


@given(st.floats(0.01, 1e6))
def test_a_budget_reads_back(amount: float) -> None:
    assert budget(str(Budget(amount, relative=False))).in_ms(1.0) == pytest.approx(amount, rel=1e-3)
    assert budget(str(Budget(amount, relative=True))).in_ms(2.0) == pytest.approx(2 * amount, rel=1e-3)


@pytest.mark.parametrize("text", ["", "%", "0", "0%", "-5", "nan", "inf", "fast", "60%%", "1e999"])
def test_a_bad_budget_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a budget"):
        budget(text)


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (milliseconds, {"1.5": 1.5, "2ms": 2.0}, ["0", "-1", "x", "nan"]),
        (count, {"1": 1, "20": 20}, ["0", "-1", "1.5", "", "²"]),
        (natural, {"0": 0, "7": 7}, ["-1", "x", ""]),
        (quantile, {"0.9": 0.9, "1": 1.0}, ["0", "1.1", "-0.5", "nan", "x", ""]),
        (number, {"0": 0.0, "7.5": 7.5}, ["-1", "x", "inf", ""]),
    ],
)
def test_numbers(read: object, good: dict, bad: list[str]) -> None:
    assert {text: read(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=r"is not a (whole )?number"):
            read(text)
