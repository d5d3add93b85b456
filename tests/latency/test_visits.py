from __future__ import annotations

from pathlib import Path

import pytest

from nas.errors import StorageError, TableError
from nas.latency._timing import Sample
from nas.latency._visits import Visits

ONE, TWO = [Sample(1.5, 2, 0.25, 0.003)], [Sample(0.1, 1, 0.2, 0.3), Sample(1e-6, 7, 2.0, 3.0, (1e-7, 9e-7))]


def test_visits_are_replayed_in_their_order_and_then_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "results" / "visits.jsonl"
    first = Visits(path, "this one")
    assert first.replay("base") is None
    first.keep("base", ONE)
    first.keep("row", TWO)
    again = Visits(path, "this one")
    assert again.replay("base") == ONE
    assert again.replay("row") == TWO
    assert again.replay("base") is None
    again.keep("base", TWO)
    assert [Visits(path, "this one").replay(name) for name in ("base",)] == [ONE]
    assert len(path.read_text().splitlines()) == 4


def test_half_a_line_of_a_run_that_was_killed_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    kept = Visits(path, "this one")
    kept.keep("base", ONE)
    kept.keep("row", TWO)
    path.write_bytes(path.read_bytes()[:-20])
    again = Visits(path, "this one")
    assert again.replay("base") == ONE
    assert again.replay("row") is None
    again.keep("row", TWO)
    last = Visits(path, "this one")
    assert [last.replay(name) for name in ("base", "row")] == [ONE, TWO]


def test_another_measurement_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    Visits(path, "this one").keep("base", ONE)
    with pytest.raises(TableError, match="another measurement"):
        Visits(path, "that one")
    with pytest.raises(TableError, match="goes on with 'base' where 'row'"):
        Visits(path, "this one").replay("row")


def test_one_that_failed_before_its_first_visit_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    Visits(path, "this one")
    Visits(path, "that one").keep("row", TWO)
    assert Visits(path, "that one").replay("row") == TWO


@pytest.mark.parametrize("content", ["no measurement, no line", "no measurement\nbut lines\n", "half a\nline", "\xff"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes"
    path.write_text(content, encoding="latin-1")
    with pytest.raises((TableError, StorageError), match="notes"):
        Visits(path, "this one")
    assert path.read_text(encoding="latin-1") == content


def test_a_run_that_was_killed_at_its_first_line_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "visits.jsonl"
    Visits(path, "this one").keep("base", ONE)
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    Visits(path, "this one").keep("base", ONE)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ['{"name": "base"}', "no JSON", '{"name": "base", "samples": [{"time": 1}]}'])
def test_a_damaged_file_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "visits.jsonl"
    Visits(path, "this one")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TableError, match="damaged"):
        Visits(path, "this one")


def test_a_file_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Visits(tmp_path / "file" / "visits.jsonl", "this one")
