"""An `Evolution` on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel

from nas import Evolution
from nas.errors import SearchError


@pytest.fixture
def evolution(evolve: Callable[..., Evolution]) -> Evolution:
    return evolve(measure=lambda network: 12.5, group_size=3)


def test_round_trip(evolution: Evolution, tmp_path: Path) -> None:
    evolution.save(tmp_path / "saved")
    again = Evolution.load(tmp_path / "saved")
    for name in ("architecture", "budget_ms", "predicted_ms", "measured_ms", "full_ms", "predicted_full_ms", "steps"):
        assert getattr(again, name) == getattr(evolution, name), name
    np.testing.assert_array_equal(again.score.values, evolution.score.values)
    assert again.score.low == evolution.score.low
    assert again.full_score.mean == evolution.full_score.mean
    pd.testing.assert_frame_equal(again.pareto, evolution.pareto)
    pd.testing.assert_frame_equal(again.history, evolution.history)
    weights = evolution.unet.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.unet.state_dict().items())
    assert isinstance(again.unet, UNet2DConditionModel)
    assert repr(again) == repr(evolution)


def test_the_folder_of_the_run_will_do(evolve: Callable[..., Evolution], tmp_path: Path) -> None:
    result = evolve(workdir=tmp_path / "run")
    result.save(tmp_path / "run")
    assert Evolution.load(tmp_path / "run").architecture == result.architecture
    again = evolve(workdir=tmp_path / "run")
    assert again.history.equals(result.history)


def test_saving_again_replaces(evolution: Evolution, tmp_path: Path) -> None:
    evolution.save(tmp_path / "saved")
    evolution.measured_ms = 13.0
    evolution.save(tmp_path / "saved")
    assert Evolution.load(tmp_path / "saved").measured_ms == 13.0


@pytest.mark.parametrize("damage", ["missing", "no json", "schema", "field"])
def test_damage_is_one_clear_sentence(evolution: Evolution, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "saved" / "evolution.json"
    if damage != "missing":
        evolution.save(tmp_path / "saved")
        data = json.loads(path.read_text())
        changed = {"no json": "{", "schema": json.dumps({**data, "schema": 99}), "field": json.dumps({"schema": 1})}
        path.write_text(changed[damage])
    with pytest.raises(SearchError, match="holds no evolution that can be read"):
        Evolution.load(tmp_path / "saved")


def test_says_what_it_is(evolution: Evolution) -> None:
    text = repr(evolution)
    assert "12.50 ms measured" in text
    assert f"{len(evolution.removed)} blocks removed" in text
