"""What a command has to say: a document for machines and its text for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """The outcome of a command.

    Attributes:
        document: plain data, printed under `--json`.
        text: the same for people.
    """

    document: Mapping[str, Any]
    text: str

    def to_json(self) -> str:
        """The document as strict JSON."""
        return json.dumps(plain(self.document), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Anything that a command reports as JSON types; numbers that JSON does not know become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    # NumPy scalars and arrays know how to become Python's own types; what else there is speaks for itself.
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def columns(rows: Iterable[Sequence[Any]], *, header: Sequence[str] = ()) -> str:
    """Rows as aligned text: the first column to the left, the others to the right."""
    table = [[str(cell) for cell in row] for row in ([header] if header else [])]
    table += [[str(cell) for cell in row] for row in rows]
    if not table:
        return ""
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    return "\n".join(_line(row, widths) for row in table)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()
