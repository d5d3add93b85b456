"""What a stage did, in its folder: the settings that it was run with, what it cost, what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nas._files import write_text_atomically
from nas._json import plain
from nas.errors import NasError, SearchError, StorageError

RECORD = "record.json"
SCHEMA = 1
# What stages leave in their folders while they work: checkpoints, the journal of a search, points of an evaluation.
WORK = ("*.pt", "search/*", "points/*")


@dataclass(frozen=True)
class Outcome:
    """What a stage's work comes to.

    Attributes:
        training_steps: how many there were, of all networks.
        figures: what it gained and whatever else is to be read in its record.
    """

    training_steps: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A stage as it stands in its folder.

    Attributes:
        stage: its name.
        identity: all that decides its result: its settings, and fingerprints of what it was given.
        finished: whether it is done.
        seconds: what it took in all calls, but for one that was killed.
        training_steps: see `Outcome`.
        figures: see `Outcome`.
    """

    stage: str
    identity: Mapping[str, Any]
    finished: bool = False
    seconds: float = 0.0
    training_steps: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)


def once(
    folder: Path, stage: str, identity: Mapping[str, Any], work: Callable[[], Outcome], *, anew: bool = False
) -> Record:
    """Do a stage's work unless its record says that it is done.

    The record is written before the work, so that a stage that was stopped is only gone on with by the same settings.

    Args:
        folder: the stage's own.
        stage: its name.
        identity: see `Record`.
        work: does it, or goes on with it.
        anew: do the stage anew where the folder holds it with another identity, instead of refusing: for work that
            loses nothing by it.

    Raises:
        SearchError: the folder holds the stage with another identity, or its record is damaged.
        StorageError: the folder cannot be written.
    """
    path, identity = folder / RECORD, plain(identity)  # as it will be read back
    record = _read(path) or Record(stage, identity)
    if anew and record.identity != identity:
        record = Record(stage, identity)
    _require_same(folder, record, identity)
    if record.finished:
        return record
    _write(path, record)
    started = time.perf_counter()
    outcome, finished, refused = Outcome(), False, False
    try:
        outcome, finished = work(), True
    except StorageError:
        raise  # a full disk is no refusal of the settings
    except NasError:
        # Nothing was begun that other settings could not go on from: they may be what has to change.
        refused = record.seconds == 0 and not any(path for work in WORK for path in folder.glob(work))
        raise
    finally:
        seconds = record.seconds + time.perf_counter() - started
        record = Record(stage, identity, finished, seconds, outcome.training_steps, plain(outcome.figures))
        path.unlink() if refused else _write(path, record)
    return record


def _read(path: Path) -> Record | None:
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (schema := data.pop("schema")) != SCHEMA:
            raise ValueError(f"its schema is {schema}, this version reads {SCHEMA}")
        return Record(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchError(f"{path} is damaged ({error}); delete the folder, its stage is run again") from error


def _write(path: Path, record: Record) -> None:
    write_text_atomically(path, json.dumps({"schema": SCHEMA, **asdict(record)}, indent=1, allow_nan=False) + "\n")


def _require_same(folder: Path, record: Record, identity: Mapping[str, Any]) -> None:
    for name in {**record.identity, **identity}:
        was, now = _of(record.identity, name), _of(identity, name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            name, was, now = next(((f"{name}.{key}", *pair) for key, pair in _differing(was, now)), (name, now, now))
        if was != now:
            raise SearchError(
                f"{folder} holds the stage {record.stage!r} run with {name} = {was!r}, this recipe has {now!r}; give "
                "another out, or delete that folder to run the stage anew"
            )


def _differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    pairs = {key: (_of(was, key), _of(now, key)) for key in {**was, **now}}
    return [(key, pair) for key, pair in pairs.items() if pair[0] != pair[1]]


def _of(values: Mapping[str, Any], name: str) -> Any:
    return values.get(name, "nothing")
