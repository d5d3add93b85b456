"""The ledger: what is written can be read, also after an accident, and by the right run only."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest

from nas import SearchSpace
from nas.errors import SearchError
from nas.search._journal import Journal, Record
from nas.search._settings import Settings

RECORD = Record(
    round=3,
    action="remove",
    place="mid.resnet.0",
    stage="complete",
    architecture="",
    predicted_ms=20.1,
    delta_ms=-1.9,
    score=0.1 + 0.2,
    low=0.29,
    high=0.31,
    values=(0.1, 0.5, 1 / 3),
    score_seconds=1.5,
    seconds=2.0,
    delta_score=-0.01,
    delta_low=-0.02,
    delta_high=0.0,
    settled=False,
    value=0.005,
)


def test_a_record_comes_back_exactly(tmp_path: Path, small_space: SearchSpace) -> None:
    record = replace(RECORD, architecture=str(small_space.full))
    Journal.open(tmp_path, None, {"seed": 0}, small_space).add(record, small_space.full)
    again = Journal.open(tmp_path, None, {"seed": 0}, small_space).records
    assert again == {record.key: record}
    score = again[record.key].to_score()
    assert score.values.tolist() == list(record.values)
    assert score.seconds == 1.5


def test_facts_beside_the_trials(tmp_path: Path, small_space: SearchSpace) -> None:
    journal = Journal.open(tmp_path, None, {}, small_space)
    assert journal.noted("measured") is None
    journal.note("measured", {"full": 1.5})
    assert Journal.open(tmp_path, None, {}, small_space).noted("measured") == {"full": 1.5}


def test_another_run_is_refused_by_what_differs(tmp_path: Path, small_space: SearchSpace) -> None:
    Journal.open(tmp_path, None, {"seed": 0, "budget_ms": 12.0}, small_space)
    with pytest.raises(SearchError, match=r"holds another run: its budget_ms is 12\.0, now it is 10\.0; give another"):
        Journal.open(tmp_path, None, {"seed": 0, "budget_ms": 10.0}, small_space)
    Journal.open(tmp_path, None, {"budget_ms": 12.0, "seed": 0}, small_space)


def test_a_half_written_line_is_dropped(tmp_path: Path, small_space: SearchSpace) -> None:
    journal = Journal.open(tmp_path, None, {}, small_space)
    journal.add(RECORD, small_space.full)
    path = tmp_path / "journal.log"
    whole = path.read_bytes()
    journal.add(replace(RECORD, round=4), small_space.full)
    path.write_bytes(path.read_bytes()[:-10])
    again = Journal.open(tmp_path, None, {}, small_space)
    assert list(again.records) == [RECORD.key]
    assert path.read_bytes().startswith(whole)
    again.add(replace(RECORD, round=4), small_space.full)
    assert len(Journal.open(tmp_path, None, {}, small_space).records) == 2


def test_a_damaged_journal_is_one_clear_sentence(tmp_path: Path, small_space: SearchSpace) -> None:
    (tmp_path / "journal.log").write_text("no json\nat all\n")
    with pytest.raises(SearchError, match=r"journal\.log cannot be read as an Optuna study"):
        Journal.open(tmp_path, None, {}, small_space)


def test_a_storage_that_is_none_is_one_clear_sentence(tmp_path: Path, small_space: SearchSpace) -> None:
    with pytest.raises(SearchError, match="cannot be read as an Optuna study"):
        Journal.open(tmp_path, f"sqlite:///{tmp_path}/missing/folder/x.db", {}, small_space)


def test_foreign_trials_are_refused(tmp_path: Path, small_space: SearchSpace) -> None:
    Journal.open(tmp_path, None, {}, small_space)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    study = optuna.load_study(study_name="evolve", storage=optuna.storages.JournalStorage(backend))
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0], user_attrs={"values": [1.0]}))
    with pytest.raises(SearchError, match="trial 0 of the journal was not written by this version"):
        Journal.open(tmp_path, None, {}, small_space)


def test_optuna_is_silent_and_left_as_it_was(
    tmp_path: Path, small_space: SearchSpace, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        Journal.open(tmp_path, None, {}, small_space).add(RECORD, small_space.full)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""


def test_every_field_is_readable_in_the_dashboard(tmp_path: Path, small_space: SearchSpace) -> None:
    Journal.open(tmp_path, None, {}, small_space).add(RECORD, small_space.full)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    [trial] = optuna.load_study(study_name="evolve", storage=optuna.storages.JournalStorage(backend)).trials
    assert trial.user_attrs == {**asdict(RECORD), "values": list(RECORD.values)}
    assert trial.duration.total_seconds() == pytest.approx(2.0, abs=0.5)
    assert trial.params == dict(small_space.full.items())


def test_options_of_memory_do_not_tell_runs_apart() -> None:
    saving = {"accumulate": 2, "gradient_checkpointing": True, "check_memory": False}
    told = Settings(training={"batch_size": 4}).identity()
    assert Settings(training={"batch_size": 4, **saving}).identity() == told
    assert Settings(training={"batch_size": 5, **saving}).identity() != told
