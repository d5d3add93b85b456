"""A stage is done once; it goes on after an error, and is refused with other settings."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from nas.compression._records import Outcome, once
from nas.errors import BudgetError, SearchError, StorageError

IDENTITY = {"settings": {"learning_rate": 1e-3, "route": (4, 2)}, "seed": 0}


def fail() -> Outcome:
    raise RuntimeError("stopped")


def never() -> Outcome:
    raise AssertionError("it was done before")


def test_what_is_done_is_read(tmp_path: Path) -> None:
    first = once(tmp_path, "stage", IDENTITY, lambda: Outcome(7, {"gain": 0.25, "file": tmp_path}))
    assert (first.finished, first.training_steps, first.figures["gain"]) == (True, 7, 0.25)
    assert once(tmp_path, "stage", IDENTITY, never) == first
    assert json.loads((tmp_path / "record.json").read_text())["figures"]["file"] == str(tmp_path)


def test_what_was_stopped_goes_on_and_counts_its_time(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        once(tmp_path, "stage", IDENTITY, fail)
    begun = json.loads((tmp_path / "record.json").read_text())
    assert begun["finished"] is False
    (tmp_path / "record.json").write_text(json.dumps({**begun, "seconds": 100.0}))
    assert once(tmp_path, "stage", IDENTITY, Outcome).seconds >= 100


def refuse() -> Outcome:
    raise BudgetError("too little")


def test_what_was_refused_at_once_does_not_bind(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="too little"):
        once(tmp_path, "stage", IDENTITY, refuse)
    assert once(tmp_path, "stage", {**IDENTITY, "seed": 1}, Outcome).finished


@pytest.mark.parametrize("begun", ["training.pt", "search/journal.log", "points/1.json"])
def test_what_was_refused_on_the_way_does(tmp_path: Path, begun: str) -> None:
    (tmp_path / begun).parent.mkdir(exist_ok=True)
    (tmp_path / begun).touch()
    with pytest.raises(BudgetError, match="too little"):
        once(tmp_path, "stage", IDENTITY, refuse)
    with pytest.raises(SearchError, match="seed = 0, this recipe has 1"):
        once(tmp_path, "stage", {**IDENTITY, "seed": 1}, never)


def test_a_full_disk_costs_no_record(tmp_path: Path) -> None:
    def full() -> Outcome:
        raise StorageError("no space left")

    with pytest.raises(StorageError, match="no space left"):
        once(tmp_path, "stage", IDENTITY, full)
    assert json.loads((tmp_path / "record.json").read_text())["seconds"] > 0


@pytest.mark.parametrize("work", [fail, Outcome])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed = 0, this recipe has 1"),
        ({"settings": {"learning_rate": 0.1, "route": (4, 2)}}, "settings.learning_rate = 0.001, this recipe has 0.1"),
        ({"settings": {"learning_rate": 1e-3}}, r"settings.route = \[4, 2\], this recipe has 'nothing'"),
        ({"more": 3}, "more = 'nothing', this recipe has 3"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, work: object, changes: dict, words: str) -> None:
    with suppress(RuntimeError):
        once(tmp_path, "stage", IDENTITY, work)
    before = (tmp_path / "record.json").read_bytes()
    with pytest.raises(SearchError, match=words):
        once(tmp_path, "stage", {**IDENTITY, **changes}, never)
    assert (tmp_path / "record.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 9}', '{"schema": 1, "bogus": 2}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(SearchError, match=r"record\.json is damaged"):
        once(tmp_path, "stage", IDENTITY, never)


def test_what_loses_nothing_is_done_anew(tmp_path: Path) -> None:
    once(tmp_path, "stage", IDENTITY, lambda: Outcome(7))
    other = {**IDENTITY, "seed": 1}
    assert once(tmp_path, "stage", other, lambda: Outcome(8), anew=True).training_steps == 8
    assert once(tmp_path, "stage", other, never, anew=True).training_steps == 8
