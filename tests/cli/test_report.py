"""What commands print."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nas.cli._report import Report, columns


def test_anything_a_command_reports_becomes_strict_json() -> None:
    document = {"path": Path("a/b"), "array": np.arange(2), "number": np.float32(0.5), "tuple": ("x",), "none": None}
    text = Report({**document, "missing": float("nan"), "endless": float("-inf")}, "").to_json()
    read = json.loads(text, parse_constant=pytest.fail)
    assert read == {
        "path": "a/b",
        "array": [0, 1],
        "number": 0.5,
        "tuple": ["x"],
        "none": None,
        "missing": None,
        "endless": None,
    }


def test_columns_are_aligned() -> None:
    assert columns([("ab", 1), ("c", 20)], header=("x", "n")) == "x    n\nab   1\nc   20"
    assert columns([]) == ""
