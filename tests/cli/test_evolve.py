"""`nas evolve` on a tiny pipeline and a made-up table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import nas
from nas import LatencyTable
from nas.errors import DeviceError
from nas.latency import Pair, Validation
from nas.pipelines import load_unet

Run = Callable[..., object]


pytestmark = pytest.mark.usefixtures("known_times")


@pytest.fixture
def evolve(nas_command: Run, tiny_pipeline_dir: Path, tiny_table: Path, tmp_path: Path) -> Run:
    def run(*more: object, budget_ms: float = 25.0) -> object:
        common = (
            "--pipeline",
            tiny_pipeline_dir,
            "--lut",
            tiny_table,
            "--out",
            tmp_path / "run",
            "--budget-ms",
            budget_ms,
        )
        return nas_command("evolve", *common, "--max-prompts", 2, "--steps", 1, *more)

    return run


def test_finds_a_network_within_the_budget(evolve: Run, tiny_table: Path, tmp_path: Path) -> None:
    outcome = evolve("--scorer", "teacher", "--json")
    document, lut = outcome.document, LatencyTable.load(tiny_table)
    assert document["full_ms"] == pytest.approx(lut.latency_ms(lut.space.full))
    assert document["predicted_ms"] <= document["budget_ms"] == 25.0
    assert document["measured_ms"] == 5.0
    network = load_unet(document["unet"])
    assert isinstance(network, nas.EvolvedUNet)
    assert str(network.architecture) == document["architecture"]
    assert list(network.architecture.removed) == document["removed"]
    again = evolve("--scorer", "teacher")
    assert f"{document['predicted_ms']:.2f}" in again.out
    assert document["removed"][0] in again.out


def test_a_margin_is_kept_below_the_budget(evolve: Run, tiny_table: Path) -> None:
    lut = LatencyTable.load(tiny_table)
    network = lut.space.full.remove(lut.space.blocks[0])
    lut.validation = Validation((Pair(str(network), 20.0, 21.0), Pair(str(network), 20.0, 25.0)))
    lut.save(tiny_table)
    document = evolve("--scorer", "teacher", "--margin", 1, "--json", budget_ms=35.0).document
    assert document["safety_margin"] == pytest.approx(0.25)
    assert document["budget_ms"] == 35.0
    assert document["predicted_ms"] <= 28.0
    text = evolve("--scorer", "teacher", "--margin", 1, budget_ms=35.0).out
    assert "budget: 35.00 ms; with a safety margin of 25.0% the table had to say 28.00 ms" in text


def test_clip_score_and_training(evolve: Run) -> None:
    options = ("--final-steps", 1, "--max-training-prompts", 2, "--json")
    document = evolve(*options, budget_ms=32.0).document
    assert document["predicted_ms"] <= 32.0
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
        (("--batch-size", "1"), "batch_size"),
        (("--height", "16"), "height"),
        (("--precision", "bf16"), "precision"),
        (("--margin", "0.9"), "no validation"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(evolve: Run, more: tuple, word: str) -> None:
    outcome = evolve(*more)
    assert outcome.status == 1
    assert outcome.err.strip().count("\n") == 0
    assert word in outcome.err


def test_a_table_of_a_device_that_is_elsewhere(evolve: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(unets: dict, table: object) -> None:
        raise DeviceError("torch-cuda is not here")

    monkeypatch.setattr("nas.latency.measure_networks_ms", elsewhere)
    document = evolve("--scorer", "teacher", "--json").document
    assert document["measured_ms"] is document["full_measured_ms"] is None
    assert "latency measured (ms)" in evolve("--scorer", "teacher").out


def test_another_run_in_the_folder_is_refused_and_kept(evolve: Run, tmp_path: Path) -> None:
    evolve("--scorer", "teacher")
    journal = (tmp_path / "run" / "journal.log").read_bytes()
    outcome = evolve("--scorer", "teacher", budget_ms=33.0)
    assert outcome.status == 1
    assert "another run" in outcome.err
    assert (tmp_path / "run" / "journal.log").read_bytes().startswith(journal)
