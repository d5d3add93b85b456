"""`nas evaluate` tells what the library finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nas
from nas._prompts import read_prompts
from nas.quality import Evaluation, Model

Run = Callable[..., object]


@pytest.fixture
def real(tmp_path: Path) -> Path:
    folder = tmp_path / "real"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\nthe sun\n")
    return path


def test_figures_are_the_librarys(
    nas_command: Run, tiny_pipeline_dir: Path, real: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--prompts", prompts, "--real", real, "--guidance", "1:3:2", "--out", out)
    models = (tiny_pipeline_dir, tiny_pipeline_dir, "--steps", 2, 1, "--scheduler", "ddim", "dpm++")
    outcome = nas_command("evaluate", *models, *options, "--json")
    assert outcome.status == 0
    long, short = f"{tiny_pipeline_dir.name}, 2 steps", f"{tiny_pipeline_dir.name}, 1 step, DPM-Solver++"
    saved = Evaluation.load(out / "evaluation.json")
    expected = nas.evaluate(
        {long: Model(tiny_pipeline_dir, steps=2), short: Model(tiny_pipeline_dir, steps=1, scheduler="dpm++")},
        prompts=read_prompts(prompts, option="", count=9, seed=0),
        real=real,
        guidance_scales=[1, 3],
    )
    assert saved.models == (long, short)
    for one, two in zip(saved.points, expected.points, strict=True):
        assert one.clip_score.values == pytest.approx(two.clip_score.values)
        assert one.kid.value == pytest.approx(two.kid.value)
    document = outcome.document
    rows = [(row["model"], row["guidance_scale"]) for row in document["points"]]
    assert rows == [(long, 1), (long, 3), (short, 1), (short, 3)]
    assert document["points"][1]["cmmd"] == pytest.approx(expected.point(long, 3).cmmd.value)
    difference = document["differences"][short][0]
    assert difference["clip_score"] == pytest.approx(
        expected.point(short, 1).clip_score.mean - expected.point(long, 1).clip_score.mean
    )
    assert document["reference"] == long
    assert [Path(file).name for file in document["files"]] == ["evaluation.json", "kid.png", "cmmd.png"]
    for file in document["files"][1:]:
        with Image.open(file) as picture:
            assert picture.width > 100


def test_people_get_a_table(nas_command: Run, tiny_pipeline_dir: Path, real: Path, tmp_path: Path) -> None:
    """With the pipeline's own captions; what is done is not done again."""
    out = tmp_path / "out"
    command = ("evaluate", tiny_pipeline_dir, "--real", real, "--steps", 1, "--guidance", "1,2.5", "--out", out)
    first = nas_command(*command, "--max-prompts", 3)
    lines = first.out.splitlines()
    assert lines[0].split() == ["guidance", "CLIP", "score", "KID", "(CLIP)", "CMMD"]
    assert [line.split()[-7] for line in lines[1:3]] == ["1", "2.5"]
    assert "±" in lines[1]
    assert lines[3] == "± 95 % interval; 3 prompts, 5 real pictures"
    before = {file: file.stat().st_mtime_ns for file in (out / "points").iterdir()}
    assert nas_command(*command, "--max-prompts", 3).out == first.out
    assert {file: file.stat().st_mtime_ns for file in (out / "points").iterdir()} == before


def test_a_bundled_model_brings_its_pictures(nas_command: Run, tiny_bundled: Path, tmp_path: Path) -> None:
    (tiny_bundled / "pictures").mkdir()
    sheet = np.random.default_rng(0).integers(0, 256, (16, 320, 3), dtype=np.uint8)
    Image.fromarray(sheet).save(tiny_bundled / "pictures" / "test.png")
    document = nas_command(
        "evaluate", tiny_bundled, "--steps", 1, "--guidance", "3", "--out", tmp_path / "out", "--json"
    ).document
    captions = json.loads((tiny_bundled / "captions" / "test.json").read_text())
    assert document["judged_by"]["real_pictures"] == len(captions) == 6
    assert document["judged_by"]["prompts"] == 6
    assert document["differences"] == {}


def test_folders_of_one_name_have_their_paths(
    nas_command: Run, tiny_bundled: Path, real: Path, prompts: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "emoji"
    other.parent.mkdir()
    other.symlink_to(tiny_bundled)
    options = ("--prompts", prompts, "--real", real, "--guidance", 1, "--steps", 1, "--out", tmp_path / "out", "--json")
    document = nas_command("evaluate", tiny_bundled, other, *options).document
    assert {row["model"] for row in document["points"]} == {f"{tiny_bundled}, 1 step", f"{other}, 1 step"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--steps", 1, 2), "--steps has 2 values for 1 pipelines"),
        (("--real", "nowhere"), "there is no folder of pictures at nowhere"),
        (("--prompts", "nowhere"), "there are no prompts at nowhere; name a file with --prompts"),
        (("--inception", "nowhere"), "nowhere is not a TorchScript file"),
        (("--clip", "nowhere"), "cannot read a CLIP model"),
        (("--compute-on", "nowhere"), "cannot compute on 'nowhere'"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    nas_command: Run, tiny_pipeline_dir: Path, real: Path, tmp_path: Path, change: tuple, sentence: str
) -> None:
    command = ("evaluate", tiny_pipeline_dir, "--real", real, "--steps", 1, "--guidance", 1, "--out", tmp_path / "out")
    outcome = nas_command(*command, *change)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert sentence in outcome.err


def test_a_pipeline_without_pictures_or_twice(nas_command: Run, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    outcome = nas_command("evaluate", tiny_pipeline_dir, "--out", tmp_path / "out")
    assert "comes without real pictures; name a folder of them with --real" in outcome.err
    outcome = nas_command("evaluate", tiny_pipeline_dir, tiny_pipeline_dir, "--out", tmp_path / "out")
    assert "give each pipeline once" in outcome.err
    outcome = nas_command("evaluate", tmp_path, "--real", tmp_path, "--out", tmp_path / "out")
    assert outcome.status == 1


@pytest.mark.parametrize(
    "option", [("--guidance", "1:10"), ("--scheduler", "best"), ("--steps", 0), ("--guidance", "x")]
)
def test_misuse_is_status_2(nas_command: Run, tiny_pipeline_dir: Path, option: tuple) -> None:
    assert nas_command("evaluate", tiny_pipeline_dir, *option).status == 2
