"""A made-up search over the tiny space whose every figure is known."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from nas import Architecture, SearchSpace
from nas.quality import Score

COLUMNS = ["round", "action", "place", "stage", "architecture", "predicted_ms", "delta_ms", "score"]
COLUMNS += ["delta_score", "delta_low", "delta_high"]

# Three prompts; the network found is worse by 0, 0.01 and 0.02.
FULL_SCORE, SCORE = Score.of([0.2, 0.3, 0.4]), Score.of([0.2, 0.29, 0.38])
FIGURES = {
    "budget_ms": 61.0,
    "predicted_ms": 60.0,
    "predicted_full_ms": 100.0,
    "score": SCORE,
    "full_score": FULL_SCORE,
}


def row(
    round: int, action: str, network: Architecture, ms: float, score: float, *, place: str = "", **more: object
) -> dict:
    figures = {"delta_ms": 0.0, "delta_score": 0.0, "delta_low": 0.0, "delta_high": 0.0, "stage": "complete", **more}
    base = {"round": round, "action": action, "place": place, "architecture": str(network), "predicted_ms": ms}
    return {**base, "score": score, **figures}


def removal(space: SearchSpace, index: int) -> dict:
    """Block `index` saves index + 1 ms and costs 0.01 x (index mod 5 - 1) of score."""
    block, cost = space.blocks[index], 0.01 * (index % 5 - 1)
    interval = {"delta_low": -cost - 0.004, "delta_high": -cost + 0.002}
    figures = {"delta_ms": -(index + 1.0), "delta_score": -cost, **interval}
    return row(0, "remove", space.full.remove(block), 99.0 - index, 0.3 - cost, place=block.place, **figures)


@pytest.fixture
def result(tiny_space: SearchSpace) -> SimpleNamespace:
    """From 100 ms in two steps to 60 ms: five blocks go, then one comes twice."""
    full = tiny_space.full
    middle = full
    for block in tiny_space.blocks[3:8]:
        middle = middle.remove(block)
    last = middle.duplicate(tiny_space.blocks[10])
    rows = [row(0, "full", full, 100.0, 0.30), row(0, "keep", full, 100.0, 0.30)]
    rows += [removal(tiny_space, index) for index in range(len(tiny_space.blocks))]
    rows += [{**removal(tiny_space, 2), "stage": "first look"}, row(1, "keep", middle, 55.0, 0.27)]
    rows += [row(2, "result", last, 60.0, 0.29)]
    pareto = pd.DataFrame(
        {"latency_ms": [100.0, 55.0, 60.0], "score": [0.3, 0.27, 0.29], "architecture": [full, middle, last]}
    )
    return SimpleNamespace(history=pd.DataFrame(rows), pareto=pareto, architecture=last, **FIGURES)


@pytest.fixture
def empty_result(tiny_space: SearchSpace) -> SimpleNamespace:
    """A search that was stopped before anything was judged."""
    pareto = pd.DataFrame(columns=["latency_ms", "score", "architecture"])
    history = pd.DataFrame(columns=COLUMNS)
    return SimpleNamespace(history=history, pareto=pareto, architecture=tiny_space.full, **FIGURES)


@pytest.fixture
def one_row_result(result: SimpleNamespace) -> SimpleNamespace:
    """Only the full network was judged."""
    return SimpleNamespace(**{**vars(result), "history": result.history.head(1), "pareto": result.pareto.head(1)})
