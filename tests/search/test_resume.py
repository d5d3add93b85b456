"""A search that was stopped goes on to the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from fakes import AdditiveScorer, AdditiveTable

import nas
from nas import Evolution, SearchSpace, Supernet
from nas.errors import SearchError, StorageError
from nas.quality import TeacherDistance
from nas.training import TrainingData


class StoppedError(Exception):
    """What is thrown into a search."""


@pytest.fixture
def brittle(scorer: AdditiveScorer) -> AdditiveScorer:
    """Fails once, at its sixth call, its ninth, its twelfth, ..."""

    class Brittle(AdditiveScorer):
        fails = True

        def __call__(self, unet: object) -> object:
            if self.fails and len(self.calls) >= 5 and len(self.calls) % 3 == 2:
                self.calls.append(("failed", 0))
                raise StoppedError
            return super().__call__(unet)

    return Brittle(scorer.worth)


def test_errors_in_the_scorer_lose_nothing(
    evolve: Callable[..., Evolution], scorer: AdditiveScorer, brittle: AdditiveScorer, tmp_path: Path
) -> None:
    whole = evolve(group_size=2, workdir=tmp_path / "whole")
    stops = 0
    for _ in range(100):
        try:
            pieces = evolve(group_size=2, workdir=tmp_path / "pieces", scorer=brittle)
            break
        except StoppedError:
            stops += 1
    assert stops > 3
    assert pieces.architecture == whole.architecture
    assert pieces.steps == whole.steps
    assert pieces.history.drop(columns="seconds").equals(whole.history.drop(columns="seconds"))
    judged = [call for call in brittle.calls if call[0] != "failed"]
    assert len(judged) == len(set(judged)) == len(scorer.calls)  # nothing was judged twice


def test_a_finished_run_is_only_read(evolve: Callable[..., Evolution], scorer: AdditiveScorer) -> None:
    first = evolve()
    calls = len(scorer.calls)
    second = evolve()
    assert len(scorer.calls) == calls
    assert second.history.equals(first.history)
    assert second.architecture == first.architecture
    weights = first.unet.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in second.unet.state_dict().items())


def test_a_network_that_another_run_left_behind_is_not_taken(
    evolve: Callable[..., Evolution], table: AdditiveTable, tmp_path: Path
) -> None:
    evolve(workdir=tmp_path / "run", budget_ms=0.95 * table.latency_ms(table.space.full))
    (tmp_path / "run" / "journal.log").unlink()
    other = evolve(workdir=tmp_path / "run")
    assert other.unet.architecture == other.architecture


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget_ms": 33.0}, "its budget_ms is "),
        ({"seed": 1}, "its seed is 0, now it is 1"),
        ({"group_size": 3}, "its strategy is "),
        ({"max_rounds": 7}, "its max_rounds is 100, now it is 7"),
    ],
)
def test_other_arguments_are_refused(evolve: Callable[..., Evolution], change: dict, message: str) -> None:
    evolve()
    with pytest.raises(SearchError, match=message):
        evolve(**change)


def test_other_weights_tables_and_scorers_are_refused(
    evolve: Callable[..., Evolution],
    supernet: Supernet,
    table: AdditiveTable,
    scorer: AdditiveScorer,
) -> None:
    budget_ms = 0.8 * table.latency_ms(table.space.full)
    evolve(budget_ms=budget_ms)
    slower = AdditiveTable(table.space, table.cost_ms, base_ms=1.1)
    with pytest.raises(SearchError, match="its latencies is"):
        evolve(lut=slower, budget_ms=budget_ms)
    with pytest.raises(SearchError, match="its scorer is"):
        evolve(scorer=AdditiveScorer(scorer.worth, prompts=9))
    with torch.no_grad():
        supernet.unet.conv_in.weight.add_(1.0)
    with pytest.raises(SearchError, match="its weights is"):
        evolve()


def test_a_disk_that_is_full_loses_nothing(
    evolve: Callable[..., Evolution], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = evolve(workdir=tmp_path / "whole")
    backend = "optuna.storages.journal.JournalFileBackend.append_logs"
    written: list[object] = []

    def refuse(self: object, logs: object) -> None:
        written.append(logs)
        if len(written) > 9:
            raise OSError(28, "No space left on device")
        real(self, logs)

    from optuna.storages.journal import JournalFileBackend

    real = JournalFileBackend.append_logs
    with monkeypatch.context() as patch:
        patch.setattr(backend, refuse)
        with pytest.raises(StorageError, match="cannot write the journal: No space left on device"):
            evolve(workdir=tmp_path / "full")
    again = evolve(workdir=tmp_path / "full")
    assert again.architecture == whole.architecture


class Interrupting(TeacherDistance):
    """A teacher distance that stops the search at one of its calls."""

    left = 10**6

    def __call__(self, unet: torch.nn.Module) -> object:
        self.left -= 1
        if self.left == 0:
            raise StoppedError
        return super().__call__(unet)


def test_a_cell_run_again_after_an_interruption_needs_no_new_supernet(
    tiny_unet: torch.nn.Module, small_space: SearchSpace, even_table: AdditiveTable, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, contexts = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 12, generator=generator)
    data = TrainingData(latents, contexts, torch.zeros(1, 5, 12))
    scorer, supernet = Interrupting(tiny_unet, latents, contexts), Supernet(tiny_unet, small_space)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    def run(folder: str) -> Evolution:
        options = {"data": data, "scheduler": DDIMScheduler(), "training": {"batch_size": 2}, "measure": False}
        steps = {"train_steps": 1, "final_steps": 1, "group_size": 1.0, "candidates": 2}
        return nas.evolve(
            supernet, even_table, budget_ms=27.0, scorer=scorer, workdir=tmp_path / folder, **steps, **options
        )

    whole = run("whole")
    scorer.left = 5
    with pytest.raises(StoppedError):
        run("pieces")
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    scorer.left = 10**6
    pieces = run("pieces")
    assert pieces.history.drop(columns="seconds").equals(whole.history.drop(columns="seconds"))
    weights = whole.unet.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in pieces.unet.state_dict().items())
    assert not list((tmp_path / "pieces").glob("*.pt"))


def test_sigkill_at_many_points(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), str(tmp_path), "18"]
    paths = os.pathsep.join(sys.path)
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=600, check=True
    )
    outcome = json.loads(ran.stdout)
    assert outcome["starts"] > 3
    assert outcome["pieces"] == outcome["whole"]
