"""Prompts from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas._prompts import read_prompts
from nas.errors import NasError


def read(file: Path, *, count: int = 10, seed: int = 0) -> list[str]:
    return read_prompts(file, option="--prompts", count=count, seed=seed)


def test_text_and_json_hold_the_same(tmp_path: Path) -> None:
    lines, captions, texts = tmp_path / "a.txt", tmp_path / "a.json", tmp_path / "b.json"
    lines.write_text("one\n\n two \nthree\n")
    captions.write_text(json.dumps([{"caption": word} for word in ("one", "two", "three")]))
    texts.write_text(json.dumps(["one", "two", "three"]))
    assert sorted(read(lines)) == ["one", "three", "two"]
    assert read(lines) == read(captions) == read(texts)
    assert read(lines, count=2) == read(lines)[:2]


@pytest.mark.parametrize("text", ["{", "3", '{"a": 1}', '[{"title": "x"}]', "[1]", "[]"])
def test_damaged_json_is_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "captions.json"
    file.write_text(text)
    with pytest.raises(NasError, match=r"captions\.json"):
        read(file)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NasError, match="neither text nor"):
        read(file)


def test_a_missing_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(NasError, match="--prompts"):
        read(tmp_path / "nowhere.txt")
