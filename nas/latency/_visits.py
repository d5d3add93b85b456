"""The visits of a measurement in a file, so that one that was interrupted goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Any

from nas.errors import StorageError, TableError
from nas.latency._timing import Sample


class Visits:
    """Keeps what every visit found in a file of JSON lines; those found there are replayed in their order.

    Args:
        path: the file; begun if it is not there.
        measurement: names what is measured, where and how, so that no other measurement is gone on with.

    Raises:
        TableError: the file holds another measurement, or something that is none.
        StorageError: the file cannot be read or written.
    """

    def __init__(self, path: Path, measurement: str) -> None:
        self._path = path
        header = json.dumps({"measurement": measurement})
        lines = self._complete_lines(header)
        if not lines:
            self._append(header)
        self._kept = deque(self._visit(line) for line in lines[1:])

    def replay(self, name: str) -> list[Sample] | None:
        """What the next visit found, if it was made before the interruption.

        Raises:
            TableError: the next visit was one to something else.
        """
        if not self._kept:
            return None
        kept, samples = self._kept.popleft()
        if kept != name:
            raise TableError(f"{self._path} goes on with {kept!r} where {name!r} is measured; remove it to start anew")
        return samples

    def keep(self, name: str, samples: list[Sample]) -> None:
        """Write down what a visit found, at once."""
        self._append(json.dumps({"name": name, "samples": [vars(sample) for sample in samples]}))

    def _complete_lines(self, header: str) -> list[str]:
        try:
            if not self._path.exists():
                return []
            *lines, rest = self._path.read_bytes().decode().split("\n")
            if len(lines) == 1 and _is_header(lines[0]):
                # Whatever it was that failed before its first visit, nothing was measured yet.
                os.truncate(self._path, 0)
                return []
            if (lines[0] != header) if lines else not header.startswith(rest):
                raise TableError(f"{self._path} holds another measurement, or none; move it away to start anew")
            # The last line of a run that was killed may be half a line.
            os.truncate(self._path, self._path.stat().st_size - len(rest.encode()))
        except (OSError, ValueError) as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error
        return lines

    def _visit(self, line: str) -> tuple[str, list[Sample]]:
        try:
            found = json.loads(line)
            return str(found["name"]), [_sample(**sample) for sample in found["samples"]]
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"{self._path} is damaged: {error!r}; remove it to start anew") from error

    def _append(self, line: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8", newline="\n") as stream:
                stream.write(line + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror or error}") from error


def _is_header(line: str) -> bool:
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and list(found) == ["measurement"]


def _sample(*, parts_ms: list[float], **others: Any) -> Sample:
    # JSON has no tuples.
    return Sample(**others, parts_ms=tuple(parts_ms))
