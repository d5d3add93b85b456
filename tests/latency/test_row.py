from __future__ import annotations

import pytest

from nas.errors import TableError
from nas.latency import Row


@pytest.mark.parametrize("time", [0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_times_that_no_clock_shows_are_refused(time: float) -> None:
    with pytest.raises(TableError, match="latency_ms"):
        Row(time, 0.0, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("spread_ms", -0.1), ("spread_ms", float("nan")), ("count", 0), ("count", 1.5), ("count", True), ("drift", -1.0)],
)
def test_the_other_fields_are_checked_and_named(field: str, value: float) -> None:
    with pytest.raises(TableError, match=field):
        Row(**{"latency_ms": 1.0, "spread_ms": 0.0, "count": 3, "drift": 0.0, field: value})
