"""The command `nas`. Every subcommand returns a `Report`, printed as text for people or as one JSON document."""

from __future__ import annotations

from nas.cli._main import main

__all__ = ["main"]
