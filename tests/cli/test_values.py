"""What people type after an option."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.cli._values import Budget, budget, count, milliseconds, natural, number, numbers, quantile


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1:3:0.5", [1, 1.5, 2, 2.5, 3]),
        ("0:0.3:0.1", [0, 0.1, 0.2, 0.3]),
        ("1:2:0.4", [1, 1.4, 1.8]),
        ("4:4:1", [4]),
        ("7,1,2.5", [7, 1, 2.5]),
        ("0", [0]),
    ],
)
def test_rows_of_numbers(text: str, expected: list[float]) -> None:
    assert numbers(text) == expected


@given(st.integers(0, 20), st.integers(1, 400), st.integers(1, 9))
def test_a_range_holds_both_ends(start: int, count: int, tenths: int) -> None:
    end = start + count * tenths / 10
    values = numbers(f"{start}:{end}:{tenths / 10}")
    assert len(values) == count + 1
    assert values[-1] == pytest.approx(end)


@pytest.mark.parametrize(
    "text",
    ["", "1,", "1:2", "1:2:0", "1:2:-1", "2:1:1", "-1:2:1", "1:2:3:4", "0:1:nan", "0:inf:1", "0:1e9:1e-9", "-1", "x"],
)
def test_bad_rows_of_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="are not numbers; give FROM:TO:STEP"):
        numbers(text)
