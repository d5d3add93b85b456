"""`nas compress` by a recipe on a tiny pipeline with made-up times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from PIL import Image
from small_compression import measured

from nas import ImageLatency
from nas.latency import Row

Run = Callable[..., object]
TRAINING = {"training_steps": 1, "batch_size": 2}


@pytest.fixture
def recipe(tiny_pipeline_dir: Path, tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A slim decoder and fewer steps, as plain data."""
    monkeypatch.setattr(ImageLatency, "measure", measured)
    rows = {"original": Row(40.0, 0.0, 3), "slim": Row(10.0, 0.0, 3)}
    monkeypatch.setattr("nas.compression._plan.measure_decoders_ms", lambda vaes, **options: rows)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, picture in enumerate(np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(picture).save(photos / f"{index}.png")
    return {
        "pipeline": str(tiny_pipeline_dir),
        "lut": str(tiny_table),
        "out": str(tmp_path / "run"),
        "steps": 2,
        "full_steps": 4,
        "data": {"max_prompts": 3, "steps": 1},
        "judge": {"max_prompts": 2, "steps": 1},
        "robust_training": False,
        "evolution": False,
        "decoder": {**TRAINING, "fresh_latents": False, "refit_latents": 2},
        "step_distillation": {**TRAINING, "route": [2]},
        "evaluation": {"max_prompts": 2, "guidance_scales": [1, 5], "real": str(photos)},
    }


@pytest.fixture
def compress(nas_command: Run, recipe: dict, tmp_path: Path) -> Run:
    def run(*more: object, **changes: object) -> object:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **changes}))
        return nas_command("compress", "--config", tmp_path / "recipe.yaml", *more)

    return run


def test_a_pipeline_and_its_report(compress: Run, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    document = compress("--json").document
    assert [stage["stage"] for stage in document["stages"]] == [
        "plan",
        "decoder",
        "step_distillation",
        "latency",
        "evaluation",
    ]
    # Two texts of 3 ms, steps of 20.5 ms, decoders of 40 and 10 ms.
    assert document["before"]["total_ms"] == pytest.approx(6 + 4 * 20.5 + 40)
    assert document["speedup"] == pytest.approx((6 + 4 * 20.5 + 40) / (6 + 2 * 20.5 + 10))
    assert [Path(file).exists() for file in document["files"]] == [True] * 3
    assert type(DiffusionPipeline.from_pretrained(document["pipeline"]).vae).__name__ == "SlimAutoencoderKL"
    before = (tmp_path / "run" / "report.json").read_bytes()
    text = compress().out
    assert (tmp_path / "run" / "report.json").read_bytes() == before
    lines = [line.split() for line in text.splitlines()]
    share = document["after"]["parts"][3]["share"]
    assert ["decoder", "40.00", "31.2%", "10.00", f"{share:.1%}"] in lines
    assert next(line for line in lines if line[:2] == ["step", "distillation"])[3] == "1"
    assert f"{document['speedup']:.1f} times faster" in text
    assert str(tmp_path / "run" / "pipeline") in text


@pytest.mark.parametrize(("unet_ms", "missed"), [(20.0, False), (60.0, True)])
def test_a_missed_budget_is_said(compress: Run, unet_ms: float, missed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("small_compression.UNET_MS", unet_ms)
    command = {"image_budget_ms": 120, "step_distillation": False, "evaluation": False}
    document = compress("--json", **command).document
    assert document["after"]["total_ms"] == pytest.approx(6 + 2 * (unet_ms + 0.5) + 10)
    assert document["within_budget"] is not missed
    assert ("the budget is missed: an image takes 137.00 ms, 14.2% more" in compress(**command).out) is missed


def test_another_folder_and_no_evaluation(compress: Run, tmp_path: Path) -> None:
    document = compress("--json", "--out", tmp_path / "other", evaluation=False, step_distillation=False).document
    assert document["pipeline"] == str(tmp_path / "other" / "pipeline")
    assert [stage["stage"] for stage in document["stages"]] == ["plan", "decoder", "latency"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"pipeline": "nowhere"}, "nowhere"),
        ({"pipeline": 3}, "pipeline is 3"),
        ({"bogus": 3}, "'bogus' is no field"),
        ({"evolution": True}, "image_budget_ms"),
        ({"image_budget_ms": 15}, "no UNet is fast enough"),
        ({"decoder": {"keep": 2}}, "keep is 2"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(compress: Run, changes: dict, word: str) -> None:
    outcome = compress(**changes)
    assert outcome.status == 1
    assert outcome.err.strip().splitlines()[-1].startswith("nas: ")
    assert word in outcome.err.strip().splitlines()[-1]


def test_no_recipe(nas_command: Run) -> None:
    assert nas_command("compress").status == 2
    outcome = nas_command("compress", "--config", "nowhere.yaml")
    assert (outcome.status, outcome.err) == (1, "nas: there is no recipe at nowhere.yaml\n")
