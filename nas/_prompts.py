"""Reading prompts from a file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from nas.errors import NasError


def read_prompts(file: Path, *, option: str, count: int, seed: int) -> list[str]:
    """Draw prompts from a text file (one a line) or a JSON list of texts or of mappings with a `caption`.

    Args:
        file: where they are.
        option: the command's option that names another file, for the message.
        count: how many at most.
        seed: of the draw.

    Raises:
        NasError: the file is missing, damaged or empty.
    """
    if not file.is_file():
        raise NasError(f"there are no prompts at {file}; name a file with {option}")
    try:
        text = file.read_text(encoding="utf-8")
        entries = _json_list(text) if file.suffix == ".json" else text.splitlines()
        prompts = [prompt for entry in entries if (prompt := _prompt(entry).strip())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NasError(f"{file} is neither text nor a JSON list of captions: {error}") from error
    if not prompts:
        raise NasError(f"{file} holds no prompt")
    random.Random(seed).shuffle(prompts)
    return prompts[:count]


def _json_list(text: str) -> list[Any]:
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise TypeError(f"it holds a {type(entries).__name__}")
    return entries


def _prompt(entry: Any) -> str:
    return entry["caption"] if isinstance(entry, dict) else entry
