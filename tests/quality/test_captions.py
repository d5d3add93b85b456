from __future__ import annotations

import json

import pytest

from nas import resources
from nas.errors import ModelError, NasError
from nas.quality import load_captions


@pytest.fixture(autouse=True)
def bundled_tiny(monkeypatch, tiny_pipeline_dir, tmp_path):
    (tmp_path / "tiny").symlink_to(tiny_pipeline_dir)
    monkeypatch.setattr(resources, "models_dir", lambda: tmp_path)


def test_captions_come_in_the_files_order():
    assert load_captions("tiny", "test") == [f"test {number}" for number in range(6)]
    assert load_captions("tiny") == [f"validation {number}" for number in range(6)]


def test_a_draw_begins_with_the_smaller_one():
    few, more = load_captions("tiny", count=2), load_captions("tiny", count=5)
    assert more[:2] == few
    assert len(set(more)) == 5
    assert load_captions("tiny", count=5, seed=1) != more


def test_missing_split_pipeline_or_captions(tmp_path):
    with pytest.raises(ModelError, match="there is test, train, validation"):
        load_captions("tiny", "dev")
    with pytest.raises(ModelError, match="no bundled pipeline"):
        load_captions("large")
    with pytest.raises(NasError, match="count"):
        load_captions("tiny", count=0)


@pytest.mark.parametrize("text", ["[", '[{"text": "a"}]', "[1]", "3"])
def test_corrupt_captions(tmp_path, text):
    broken = tmp_path / "broken"
    (broken / "captions").mkdir(parents=True)
    (broken / "model_index.json").write_text("{}")
    (broken / "captions" / "test.json").write_text(text)
    with pytest.raises(ModelError, match="not a list of captions"):
        load_captions("broken", "test")


def test_captions_of_what_was_drawn(tmp_path):
    entries = [{"caption": "a", "drawn": True}, {"caption": "b", "drawn": False}, {"caption": "c"}]
    some = tmp_path / "some"
    (some / "captions").mkdir(parents=True)
    (some / "model_index.json").write_text("{}")
    (some / "captions" / "train.json").write_text(json.dumps(entries))
    assert load_captions("some", "train", drawn_only=True) == ["a"]
    assert load_captions("some", "train") == ["a", "b", "c"]
