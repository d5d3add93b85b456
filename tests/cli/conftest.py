"""The command line in this process, and a tiny model in the place of the bundled one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from nas.cli import main


class Outcome(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        """The one JSON document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def nas_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `nas` with some arguments; misuse ends in `SystemExit`, whose code is the status."""

    def run(*arguments: object) -> Outcome:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def tiny_bundled(tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny random pipeline where the bundled one would be, with "robust" weights."""
    models = tmp_path / "models"
    shutil.copytree(tiny_pipeline_dir, models / "emoji")
    shutil.copytree(models / "emoji" / "unet", models / "emoji" / "unet_robust")
    monkeypatch.setattr("nas.resources.models_dir", lambda: models)
    return models / "emoji"
