"""What every benchmark ends with: its figures for people and, on request, as a JSON file with the machine named."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from nas._files import write_text_atomically
from nas.latency.devices import get_device


def write_report(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures, one a line or a table, and write them to `path` with the command and the machine."""
    for name, value in figures.items():
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            print(f"\n{name}\n{pd.DataFrame(value).to_string(index=False, float_format='{:.4g}'.format)}\n")
        else:
            print(f"{name:>28}  {value:.4g}" if isinstance(value, float) else f"{name:>28}  {value}")
    if path is not None:
        command = shlex.join(["python", *sys.argv])
        report = {"command": command, "machine": get_device("torch-cpu").provenance(), **figures}
        write_text_atomically(path, json.dumps(report, indent=2) + "\n")
