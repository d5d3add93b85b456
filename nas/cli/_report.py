"""What a command has to say: a document for machines and its text for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas._json import plain


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
