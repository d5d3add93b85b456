"""`benchmarks/compress.py` on a tiny pipeline: every row is there, and none is made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from benchmark_scripts import loaded

from nas import LatencyTable

TRAINING = {"training_steps": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with loaded("compress") as module:
        yield module


@pytest.fixture
def recipe(tiny_pipeline_dir: Path, table: LatencyTable, photos: Path, tmp_path: Path) -> Path:
    table.save(tmp_path / "lut.yaml")
    stages = dict.fromkeys(("robust_training", "evolution"), False)
    data = {
        "pipeline": str(tiny_pipeline_dir),
        "lut": str(tmp_path / "lut.yaml"),
        "out": "unused",
        "steps": 2,
        "full_steps": 4,
        "data": {"max_prompts": 3, "steps": 1},
        "judge": {"max_prompts": 2, "steps": 1},
        **stages,
        "decoder": {**TRAINING, "training_steps": 0},
        "step_distillation": {**TRAINING, "training_steps": 3, "route": [2]},
        "evaluation": {"max_prompts": 2, "guidance_scales": [1, 5], "real": str(photos)},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "recipe.yaml"


def test_all_rows_of_one_run(benchmark: ModuleType, recipe: Path, tmp_path: Path) -> None:
    arguments = ["--recipe", recipe, "--workdir", tmp_path / "run", "--json", tmp_path / "out.json", "--repeats", 1]
    assert benchmark.main([str(argument) for argument in arguments]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    models = [
        "full, 4 steps",
        "full, 2 steps",
        "full, 2 steps, DPM-Solver++",
        "vanilla, direct, 2 steps",
        "CFG-aware, direct, 2 steps",
        "CFG-aware, progressive, 2 steps",
        "CFG-aware, direct, folded, 2 steps",
        "CFG-aware, consistency, 2 steps",
        "compressed, 2 steps",
        "compressed but not distilled, 2 steps",
    ]
    assert [row["model"] for row in figures["best"]] == [model for model in models for _ in range(2)]
    assert [(point["model"], point["guidance_scale"]) for point in figures["curves"]] == [
        (model, scale) for model in models for scale in (1.0, 5.0)
    ]
    assert [row["guidance_scale"] for row in figures["differences"]] == [1.0, 5.0]
    assert figures["times_faster"] == pytest.approx(figures["full_seconds"] / figures["compressed_seconds"])
    assert [row["stage"] for row in figures["stages"]] == ["plan", "decoder", "step_distillation"]
    assert sorted(file.name for file in (tmp_path / "run" / "CFG-aware-progressive").iterdir()) == [
        "2-full.pt",
        "4-full.pt",
        "8-full.pt",
    ]
    # What the recipe has judged is read, whoever asks.
    points = tmp_path / "run" / "recipe" / "evaluation" / "points"
    drawn = {point["seconds"] for point in figures["curves"]}  # networks that are equal are judged once
    assert len(list(points.iterdir())) == len(drawn)


def test_a_recipe_without_evaluation_is_refused(
    benchmark: ModuleType, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "evaluation": False}))
    assert benchmark.main(["--recipe", str(recipe), "--workdir", str(tmp_path / "run")]) == 1
    assert "leaves out the evaluation" in capsys.readouterr().err
