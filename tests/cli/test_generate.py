"""`nas generate` draws what the stock pipeline draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import nas

Run = Callable[..., object]


def test_pictures_are_those_of_the_stock_pipeline(
    nas_command: Run, tiny_pipeline: StableDiffusionPipeline, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    arguments = ("--pipeline", tiny_pipeline_dir, "--steps", 2, "--seed", 5, "--out", tmp_path, "--json")
    document = nas_command("generate", "A cat!", "a dog", *arguments).document
    assert [Path(row["file"]).name for row in document["pictures"]] == ["a-cat.png", "a-dog.png"]
    for row in document["pictures"]:
        generator = torch.Generator().manual_seed(5)
        stock = tiny_pipeline(row["prompt"], num_inference_steps=2, guidance_scale=5.0, generator=generator).images[0]
        drawn = np.asarray(Image.open(row["file"]), dtype=float)
        assert np.abs(drawn - np.asarray(stock, dtype=float)).max() <= 1


def test_earlier_pictures_are_kept(nas_command: Run, tiny_bundled: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert nas_command("generate", "a cat", "--steps", 1, "--out", tmp_path / "out").status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-cat-2.png", "a-cat.png"]


def test_an_evolved_network_draws(
    nas_command: Run, tiny_bundled: Path, tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    supernet = nas.Supernet(tiny_pipeline.unet)
    network = supernet.extract(supernet.space.full.remove(supernet.space.blocks[3]))
    network.save_pretrained(tmp_path / "unet")
    full = nas_command("generate", "a cat", "--steps", 1, "--out", tmp_path / "a", "--json")
    evolved = nas_command(
        "generate", "a cat", "--steps", 1, "--unet", tmp_path / "unet", "--out", tmp_path / "b", "--json"
    )
    files = [outcome.document["pictures"][0]["file"] for outcome in (full, evolved)]
    assert (np.asarray(Image.open(files[0])) != np.asarray(Image.open(files[1]))).any()


def test_steps_that_the_scheduler_has_not_are_one_sentence(nas_command: Run, tiny_bundled: Path) -> None:
    outcome = nas_command("generate", "a cat", "--steps", 5000)
    assert outcome.status == 1
    assert "steps is 5000, which the DDIMScheduler cannot do" in outcome.err


def break_weights(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "emoji"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "damaged"),
        (break_weights, "damaged"),
    ],
)
def test_a_damaged_pipeline_is_one_sentence(
    nas_command: Run, tiny_bundled: Path, tmp_path: Path, damage: Callable[[Path], None], word: str
) -> None:
    damage(tiny_bundled)
    outcome = nas_command("generate", "a cat", "--steps", 1, "--out", tmp_path / "out")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert word in outcome.err


def test_a_device_that_is_not_here_is_one_sentence(nas_command: Run, tiny_bundled: Path, tmp_path: Path) -> None:
    outcome = nas_command("generate", "a cat", "--compute-on", "nowhere", "--out", tmp_path / "out")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "cannot compute on 'nowhere'" in outcome.err


@pytest.mark.parametrize("option", ["--pipeline", "--unet"])
def test_a_missing_folder_is_one_sentence(nas_command: Run, tiny_bundled: Path, tmp_path: Path, option: str) -> None:
    outcome = nas_command("generate", "a cat", option, tmp_path / "nowhere", "--out", tmp_path / "out")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "there is no such folder" in outcome.err
