"""The ledger of a search: an Optuna study in which every judged candidate is a trial."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from nas.architecture import Architecture
from nas.errors import SearchError, StorageError
from nas.quality import Score
from nas.search_space import SearchSpace

JOURNAL = "journal.log"
STUDY = "evolve"
_IDENTITY = "identity"


@dataclass(frozen=True)
class Record:
    """A judged candidate as it stands in the journal.

    Attributes:
        round: round of the search.
        action: "remove", "duplicate", "restore", "keep" (the current network), "full" or "result".
        place: the block that the action changes; empty where there is none.
        stage: "first look" or "complete".
        architecture: text of the candidate.
        predicted_ms: its latency by the table.
        delta_ms: the same less the current network's.
        score: mean score.
        low: lower end of its 95 % interval.
        high: upper end.
        values: score of each prompt, in order.
        score_seconds: time of the scoring alone.
        seconds: time that judging took, probing included.
        delta_score: candidate minus current network, paired.
        delta_low: lower end of its 95 % interval.
        delta_high: upper end.
        settled: whether that interval leaves out zero.
        value: `delta_score / delta_ms`, or None where the latency does not change.
        reused: whether the score was taken over from an equal network judged before.
    """

    round: int
    action: str
    place: str
    stage: str
    architecture: str
    predicted_ms: float
    delta_ms: float
    score: float
    low: float
    high: float
    values: tuple[float, ...]
    score_seconds: float
    seconds: float
    delta_score: float
    delta_low: float
    delta_high: float
    settled: bool
    value: float | None
    reused: bool = False

    @property
    def key(self) -> tuple[int, str, str, str]:
        """What names the candidate in its run."""
        return self.round, self.action, self.place, self.stage

    def to_score(self) -> Score:
        """The score as the scorer gave it."""
        return Score.of(self.values, seconds=self.score_seconds)


class Journal:
    """Reads and writes the trials of one run; what was finished once is never judged again."""

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self._study = study
        self._distributions = _distributions(space)
        records = [_read(trial) for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        self.records: dict[tuple[int, str, str, str], Record] = {record.key: record for record in records}

    @classmethod
    def open(cls, workdir: Path, storage: str | None, identity: Mapping[str, Any], space: SearchSpace) -> Journal:
        """Start the study of a run, or go on with it.

        Args:
            workdir: folder of the run; in a `storage` shared by many runs its name is the study's.
            storage: an Optuna storage URL, or None for a journal file in `workdir`.
            identity: everything that decides the run's course.
            space: the search space.

        Raises:
            SearchError: the study there is another run's (the message says what differs), or it cannot be read.
        """
        where = storage or str(workdir / JOURNAL)
        identity = json.loads(json.dumps(identity, default=str))  # as it will be read back
        with _quiet():
            study = _open_study(workdir, storage, where)
            known = study.user_attrs.get(_IDENTITY)
            if known is None:
                study.set_metric_names(["latency_ms", "score"])
                study.set_user_attr(_IDENTITY, identity)
            else:
                _refuse_another_run(known, identity, where=where)
            return cls(study, space)

    def add(self, record: Record, architecture: Architecture) -> None:
        """Write a finished candidate as one trial.

        Raises:
            StorageError: it cannot be written.
        """
        ended = datetime.now(UTC).replace(tzinfo=None)
        trial = create_trial(
            state=TrialState.COMPLETE,
            values=[record.predicted_ms, record.score],
            params=dict(architecture.items()),
            distributions=self._distributions,
            user_attrs=asdict(record),
        )
        trial.datetime_start = ended - timedelta(seconds=record.seconds)
        with _quiet(), _writing():
            self._study.add_trial(trial)
        self.records[record.key] = record

    def note(self, name: str, value: Any) -> None:
        """Keep a fact about the run beside its trials."""
        with _quiet(), _writing():
            self._study.set_user_attr(name, value)

    def noted(self, name: str) -> Any:
        """A fact kept by `note`, or None."""
        return self._study.user_attrs.get(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own messages out of ours, and leave its settings as they were."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write the journal: {reason}; what was finished is kept") from error


def _open_study(workdir: Path, storage: str | None, where: str) -> optuna.Study:
    try:
        return optuna.create_study(
            study_name=STUDY if storage is None else workdir.resolve().name,
            storage=_file_storage(workdir / JOURNAL) if storage is None else storage,
            directions=["minimize", "maximize"],
            load_if_exists=True,
        )
    except Exception as error:  # every storage has its own kinds
        reason = " ".join(str(error).split())[:200]
        raise SearchError(f"{where} cannot be read as an Optuna study ({reason}); give another workdir") from error


def _file_storage(path: Path) -> JournalStorage:
    path = path.resolve()  # Optuna's lock is a symbolic link, which a relative path would leave dangling
    _drop_half_line(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _drop_half_line(path: Path) -> None:
    # A machine that went down while a trial was written leaves a line without its end, on which Optuna would stumble.
    if not path.exists():
        return
    with open(path, "rb+") as stream:
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            stream.truncate(whole)


def _distributions(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    choices = [str(runs) for runs in range(2 + space.max_copies)]
    return {
        block.place: CategoricalDistribution(choices[1:] if block.place in space.fixed else choices)
        for block in space.blocks
    }


def _read(trial: optuna.trial.FrozenTrial) -> Record:
    try:
        return Record(**{**trial.user_attrs, "values": tuple(trial.user_attrs["values"])})
    except (TypeError, KeyError) as error:
        raise SearchError(f"trial {trial.number} of the journal was not written by this version: {error}") from error


def _refuse_another_run(known: Mapping[str, Any], identity: Mapping[str, Any], *, where: str) -> None:
    for name in {**known, **identity}:
        if known.get(name) != identity.get(name):
            raise SearchError(
                f"{where} holds another run: its {name} is {_short(known.get(name))}, now it is "
                f"{_short(identity.get(name))}; give another workdir or the same arguments as then"
            )


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items()) + "}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
