"""`nas evolve` on a tiny pipeline and a made-up table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler, UNet2DConditionModel
from tables import table_of

import nas
from nas import ImageLatency, LatencyTable
from nas.errors import DeviceError
from nas.latency import Pair, Validation
from nas.pipelines import load_unet
from nas.unet import fold_guidance, folded_width

Run = Callable[..., object]


pytestmark = pytest.mark.usefixtures("known_times")


@pytest.fixture
def evolve(nas_command: Run, tiny_pipeline_dir: Path, tiny_table: Path, tmp_path: Path) -> Run:
    def run(*more: object, budget_ms: float | None = 25.0) -> object:
        common = ("--pipeline", tiny_pipeline_dir, "--lut", tiny_table, "--out", tmp_path / "run")
        budget = () if budget_ms is None else ("--budget-ms", budget_ms)
        return nas_command("evolve", *common, *budget, "--max-prompts", 2, "--steps", 1, *more)

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


@pytest.mark.parametrize("scorer", ["clip", "teacher"])
def test_is_judged_and_trained_at_the_size_of_the_table(
    evolve: Run, tiny_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorer: str
) -> None:
    table_of(LatencyTable.load(tiny_table).space, width=16).save(tiny_table)
    seen: set[tuple[int, ...]] = set()
    run = UNet2DConditionModel.forward

    def spied(self: UNet2DConditionModel, sample: torch.Tensor, *more: object, **options: object) -> object:
        seen.add(tuple(sample.shape[-2:]))
        return run(self, sample, *more, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", spied)
    more = ("--width", 16, "--final-steps", 1, "--max-training-prompts", 2, "--compute-on", "cpu")
    assert evolve("--scorer", scorer, *more).status == 0
    assert seen == {(8, 16)}


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


@pytest.mark.parametrize("told", ["both", "start"])
def test_networks_that_are_told_the_guidance(
    evolve: Run, tiny_pipeline_dir: Path, tiny_table: Path, tmp_path: Path, told: str
) -> None:
    unet = load_unet(tiny_pipeline_dir / "unet")
    fold_guidance(unet, width=8)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)
    pipeline = shutil.copytree(tiny_pipeline_dir, tmp_path / "pipeline")
    unet.save_pretrained(pipeline / "unet" if told == "both" else tmp_path / "start")
    lut = LatencyTable.load(tiny_table)
    replace(lut, space=replace(lut.space, config={**lut.space.config, "time_cond_proj_dim": 8})).save(tiny_table)
    start = () if told == "both" else ("--unet", tmp_path / "start")
    outcome = evolve("--pipeline", pipeline, *start, "--scorer", "teacher", "--guidance-scale", 3, "--json")
    assert folded_width(load_unet(outcome.document["unet"])) == 8


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
        (("--compute-on", "nowhere"), "cannot compute on 'nowhere'"),
        (("--margin", "0.9"), "no validation"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(evolve: Run, more: tuple, word: str) -> None:
    outcome = evolve(*more)
    assert outcome.status == 1
    assert outcome.err.strip().count("\n") == 0
    assert word in outcome.err


def test_a_table_of_a_device_that_is_elsewhere(evolve: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(unets: dict, table: object, **_: object) -> None:
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


# A budget for the whole image.


@pytest.fixture
def evolve_image(evolve: Run) -> Run:
    def run(budget_ms: float, *more: object) -> object:
        return evolve("--scorer", "teacher", "--image-budget-ms", budget_ms, *more, budget_ms=None)

    return run


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """Two texts of 3 ms, four steps of 20 ms and 0.5 ms, a decoder of 40 ms: 48 ms without the UNet."""
    image = ImageLatency.from_components(
        text_encoder_ms=3.0, unet_ms=20.0, decoder_ms=40.0, steps=4, step_overhead_ms=0.5
    )
    image.save(tmp_path / "image.yaml")
    return tmp_path / "image.yaml"


@pytest.fixture
def measured_images(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Nothing is timed; every measurement finds the parts slower than the last. The calls, as they come."""
    calls: list[dict] = []

    def measure(pipeline: object, *, device: str, threads: int | None, precision: str, **options: object) -> object:
        calls.append({"device": device, "threads": threads, "precision": precision, **options})
        times = {"text_encoder_ms": 1.0, "unet_ms": 7.0, "decoder_ms": 10.0 + len(calls)}
        known = {"device": device, "precision": precision, "resolution": f"{options['height']}x{options['width']}"}
        known |= {"threads": threads, "scheduler": type(pipeline.scheduler).__name__}
        counted = {name: options[name] for name in ("steps", "guided", "unet_batch_size")}
        return replace(ImageLatency.from_components(**times, **counted, provenance=known), origin="measured")

    monkeypatch.setattr(ImageLatency, "measure", measure)
    return calls


def test_a_budget_for_the_image_leaves_the_unet_what_the_rest_leaves(
    evolve_image: Run, image_file: Path, tiny_table: Path
) -> None:
    document = evolve_image(148, "--image", image_file, "--json").document
    assert document["budget_ms"] == pytest.approx((148 - 48) / 4)
    assert document["predicted_ms"] <= 25.0
    lut = LatencyTable.load(tiny_table)
    image = document["image"]
    assert image["budget_ms"] == 148
    assert (image["origin"], image["steps"], image["without_unet_ms"]) == ("given", 4, 48.0)
    assert image["full_ms"] == pytest.approx(48 + 4 * lut.latency_ms(lut.space.full))
    assert image["predicted_ms"] == pytest.approx(48 + 4 * document["predicted_ms"])
    assert image["predicted_ms"] <= 148
    # Every network takes 5 ms here.
    assert image["full_measured_ms"] == image["measured_ms"] == pytest.approx(48 + 4 * 5)
    text = evolve_image(148, "--image", image_file).out
    assert "budget of the image: 148.00 ms; 4 runs of the UNet, and 48.00 ms given for everything else" in text
    row = next(line for line in text.splitlines() if line.startswith("image by the table"))
    assert [float(cell) for cell in row.split()[-2:]] == pytest.approx([image["full_ms"], image["predicted_ms"]])


def test_the_image_may_have_other_steps_than_its_file(evolve_image: Run, image_file: Path) -> None:
    document = evolve_image(246 + 1.0, "--image", image_file, "--image-steps", 8, "--json").document
    # 46 ms, and half a millisecond a step.
    assert document["budget_ms"] == pytest.approx((247 - 46 - 8 * 0.5) / 8)
    assert document["image"]["steps"] == document["image"]["unet_runs"] == 8


def test_the_parts_are_measured_once_for_a_run(evolve_image: Run, measured_images: list[dict], tmp_path: Path) -> None:
    options = ("--image-steps", 2, "--json")
    first = evolve_image(63, *options).document
    # Two texts of 1 ms and a decoder of 11 ms.
    assert first["budget_ms"] == pytest.approx((63 - 2 - 11) / 2)
    assert first["image"]["origin"] == "measured"
    assert ImageLatency.load(tmp_path / "run" / "image.yaml").decoder_ms == 11.0
    again = evolve_image(63, *options).document
    assert again == first
    (call,) = measured_images
    assert (call["device"], call["threads"], call["steps"]) == ("torch-cpu", 1, 2)
    assert (call["guided"], call["unet_batch_size"]) == (True, 2)


def test_the_measured_image_has_the_steps_it_is_judged_with(evolve_image: Run, measured_images: list[dict]) -> None:
    document = evolve_image(38, "--json").document
    assert document["image"]["steps"] == measured_images[0]["steps"] == 1
    assert document["budget_ms"] == pytest.approx(38 - 13)


def test_the_image_has_as_many_runs_as_its_scheduler_makes(
    evolve_image: Run, measured_images: list[dict], tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_pipeline_dir, tmp_path / "pndm")
    PNDMScheduler(skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    outcome = evolve_image(63, "--image-steps", 2, "--pipeline", folder, "--json")
    assert outcome.status == 0, outcome.err
    document = outcome.document
    assert document["image"]["unet_runs"] == 3
    assert document["budget_ms"] == pytest.approx((63 - 2 - 11) / 3)
    outcome = evolve_image(63, "--image-steps", 2)
    assert "image.yaml was measured with another scheduler" in outcome.err


def test_parts_measured_under_other_conditions_are_refused(evolve_image: Run, measured_images: list[dict]) -> None:
    assert evolve_image(38).status == 0
    outcome = evolve_image(38, "--guidance-scale", 0)
    assert outcome.status == 1
    assert "image.yaml was measured with another guidance; give another --out" in outcome.err


def test_the_tables_device_is_elsewhere_and_the_parts_are_not_given(
    evolve_image: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*args: object, **options: object) -> None:
        raise DeviceError("torch-cuda is not here")

    monkeypatch.setattr(ImageLatency, "measure", elsewhere)
    outcome = evolve_image(38)
    assert outcome.status == 1
    assert "torch-cuda is not here; give them with --image FILE" in outcome.err


@pytest.mark.parametrize(
    ("budget_ms", "more", "words"),
    [
        (47, (), ("48.00 ms", "no UNet is fast enough")),
        (148, ("--image", "iphone-14-pro_sd15"), ("64x64", "8x8")),
        (148, ("--image", "nowhere"), ("nowhere",)),
        (148, ("--batch-size", "1"), ("batch_size",)),
    ],
)
def test_an_images_budget_that_cannot_be_is_one_sentence(
    evolve_image: Run, image_file: Path, budget_ms: float, more: tuple, words: tuple[str, ...]
) -> None:
    outcome = evolve_image(budget_ms, "--image", image_file, *more)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert [word for word in words if word not in outcome.err] == []


def test_an_image_faster_than_with_the_smallest_unet_is_refused(
    evolve_image: Run, image_file: Path, tiny_table: Path
) -> None:
    lut = LatencyTable.load(tiny_table)
    smallest = lut.space.full
    for block in lut.space.blocks[:6]:
        smallest = smallest.remove(block)
    least_ms, full_ms = (48 + 4 * lut.latency_ms(network) for network in (smallest, lut.space.full))
    outcome = evolve_image(50, "--image", image_file)
    assert outcome.status == 1
    assert "an image in 50.00 ms leaves 0.50 ms for one run of the UNet" in outcome.err
    assert f"attainable for the image is {least_ms:.2f} ms to {full_ms:.2f} ms (the full network)" in outcome.err


def test_one_budget_and_only_one(evolve: Run, image_file: Path) -> None:
    both = evolve("--image-budget-ms", 148)
    neither = evolve(budget_ms=None)
    assert both.status == neither.status == 2
    assert "not allowed with" in both.err
    assert "--budget-ms --image-budget-ms" in neither.err
    stray = evolve("--image", image_file)
    assert stray.status == 1
    assert "--image says what an image consists of; give --image-budget-ms too" in stray.err
