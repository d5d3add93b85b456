"""`nas evolve` on a tiny pipeline and a made-up table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import nas
from nas import LatencyTable, SearchSpace, Workload
from nas.latency import Row, _network
from nas.pipelines import load_unet

Run = Callable[..., object]


@pytest.fixture(autouse=True)
def known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are not timed: what they measure is not what is tested here."""
    monkeypatch.setattr(_network._Bench, "measure", lambda self, unet: Row(5.0, 0.1, 3))


@pytest.fixture
def table(tiny_space: SearchSpace, tmp_path: Path) -> Path:
    """1 ms a block, 0.1 ms a shortcut, 10 ms for the rest."""
    workload = Workload.of(tiny_space)
    blocks = tiny_space.blocks
    names = {b.signature(workload, copy=copy): 1.0 for b in blocks for copy in (False, True)}
    names |= {name: 0.1 for b in blocks if (name := b.shortcut_signature(workload))}
    rows = {name: Row(ms, 0.0, 3) for name, ms in names.items()}
    path = tmp_path / "lut.yaml"
    LatencyTable(tiny_space, workload, rows, Row(10.0, 0.0, 3), {"device": "torch-cpu", "threads": 1}).save(path)
    return path


@pytest.fixture
def evolve(nas_command: Run, tiny_pipeline_dir: Path, table: Path, tmp_path: Path) -> Run:
    def run(*more: object, budget_ms: float = 30.0) -> object:
        common = ("--pipeline", tiny_pipeline_dir, "--lut", table, "--out", tmp_path / "run", "--budget-ms", budget_ms)
        return nas_command("evolve", *common, "--max-prompts", 2, "--steps", 1, *more)

    return run


def test_finds_a_network_within_the_budget(evolve: Run, table: Path, tmp_path: Path) -> None:
    outcome = evolve("--scorer", "teacher", "--json")
    document, lut = outcome.document, LatencyTable.load(table)
    assert document["full_ms"] == pytest.approx(lut.latency_ms(lut.space.full))
    assert document["predicted_ms"] <= document["budget_ms"] == 30.0
    assert document["measured_ms"] == 5.0
    network = load_unet(document["unet"])
    assert isinstance(network, nas.EvolvedUNet)
    assert str(network.architecture) == document["architecture"]
    assert list(network.architecture.removed) == document["removed"]
    again = evolve("--scorer", "teacher")
    assert f"{document['predicted_ms']:.2f}" in again.out
    assert document["removed"][0] in again.out


def test_clip_score_and_training(evolve: Run) -> None:
    options = ("--final-steps", 1, "--max-training-prompts", 2, "--json")
    document = evolve(*options, budget_ms=37.0).document
    assert document["predicted_ms"] <= 37.0
    assert document["removed"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--lut", "nowhere.yaml"), "nowhere.yaml"),
        (("--pipeline", "nowhere"), "nowhere"),
        (("--unet", "nowhere"), "nowhere"),
        (("--clip", "nowhere"), "nowhere"),
        (("--prompts", "nowhere.txt"), "nowhere.txt"),
        (("--final-steps", "1", "--training-prompts", "nowhere.txt"), "nowhere.txt"),
        (("--budget-ms", "2"), "below the smallest network"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(evolve: Run, more: tuple, word: str) -> None:
    outcome = evolve(*more)
    assert outcome.status == 1
    assert outcome.err.strip().count("\n") == 0
    assert word in outcome.err


def test_another_run_in_the_folder_is_refused_and_kept(evolve: Run, tmp_path: Path) -> None:
    evolve("--scorer", "teacher")
    journal = (tmp_path / "run" / "journal.log").read_bytes()
    outcome = evolve("--scorer", "teacher", budget_ms=33.0)
    assert outcome.status == 1
    assert "another run" in outcome.err
    assert (tmp_path / "run" / "journal.log").read_bytes() == journal
