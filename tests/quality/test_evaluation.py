"""What an evaluation says: its points, their differences, its file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_evaluation import OPTIONS, Means

import nas
from nas import NasError
from nas.quality import Evaluation, Model


@pytest.fixture(scope="module")
def evaluation(shared_pipeline):
    models = {"full": shared_pipeline, "short": Model(shared_pipeline, steps=1)}
    return nas.evaluate(models, inception=Means(), **OPTIONS)


def test_differences_are_paired(evaluation):
    frame = evaluation.differences("short", "full")
    assert frame.guidance_scale.tolist() == [1, 3]
    row = frame.iloc[1]
    full, short = evaluation.point("full", 3), evaluation.point("short", 3)
    changes = short.clip_score.values - full.clip_score.values
    assert row.clip_score == pytest.approx(changes.mean())
    assert row.clip_score_settled == (row.clip_score_low > 0 or row.clip_score_high < 0)
    for name in ("kid", "cmmd"):
        assert row[name] == pytest.approx(getattr(short, name).value - getattr(full, name).value)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    own = evaluation.differences("full", "full")
    assert own[["clip_score", "kid_low", "kid_high", "cmmd"]].abs().to_numpy().max() == 0
    assert not own.kid_settled.any()


def test_the_frame_has_a_row_a_point(evaluation):
    frame = evaluation.to_frame()
    assert frame.model.tolist() == ["full", "full", "short", "short"]
    assert frame.steps.tolist() == [2, 2, 1, 1]
    assert frame.prompts.tolist() == [4] * 4
    for row, point in zip(frame.itertuples(), evaluation.points, strict=True):
        assert (row.clip_score, row.kid, row.cmmd) == (point.clip_score.mean, point.kid.value, point.cmmd.value)
        assert row.kid_low < row.kid < row.kid_high
        assert (row.fid, row.fid_high) == (point.fid.value, np.inf)  # fewer pictures than features


def test_saved_and_read(evaluation, tmp_path):
    evaluation.save(tmp_path / "new" / "evaluation.json")
    again = Evaluation.load(tmp_path / "new" / "evaluation.json")
    assert again.to_frame().equals(evaluation.to_frame())
    assert again.judged_by == evaluation.judged_by
    assert again.judged_by["real_pictures"] == 5
    assert np.array_equal(again.points[0].kid.real, evaluation.points[0].kid.real)
    for text in ("{", "[]", json.dumps({"schema": 99}), json.dumps({"schema": 1})):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(NasError, match="no evaluation that can be read"):
            Evaluation.load(tmp_path / "bad.json")
    with pytest.raises(NasError, match="no evaluation"):
        Evaluation.load(tmp_path / "none.json")


def test_unknown_models_and_guidance(evaluation):
    with pytest.raises(NasError, match="'long'; there is full, short"):
        evaluation.curve("long")
    with pytest.raises(NasError, match="not evaluated at guidance 2; there is 1, 3"):
        evaluation.point("full", 2)
