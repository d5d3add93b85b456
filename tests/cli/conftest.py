"""The command line in this process, and a tiny model in the place of the bundled one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest_pipeline import CONTEXT_LENGTH
from tables import table_of, with_few_choices

from nas import LatencyTable, SearchSpace
from nas.cli import main
from nas.latency import Row


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


@pytest.fixture
def tiny_table(tiny_space: SearchSpace, tmp_path: Path) -> Path:
    """A made-up table of the tiny space and for the tiny pipeline's texts, as a file."""
    path = tmp_path / "lut.yaml"
    table_of(replace(with_few_choices(tiny_space), context_length=CONTEXT_LENGTH)).save(path)
    return path


@pytest.fixture
def known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed: tables are `table_of`, every network takes 5 ms, and search spaces are small."""
    derive = SearchSpace.from_unet
    monkeypatch.setattr(SearchSpace, "from_unet", lambda unet, **options: with_few_choices(derive(unet, **options)))
    monkeypatch.setattr(LatencyTable, "measure", lambda space, **options: table_of(space))
    monkeypatch.setattr(
        "nas.latency.measure_networks_ms", lambda unets, table, **_: dict.fromkeys(unets, Row(5.0, 0.1, 3))
    )
