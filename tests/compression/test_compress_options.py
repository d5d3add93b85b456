"""The recipe with a part left out or done another way, on a tiny pipeline with made-up times."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest_pipeline import make_scheduler
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from small_compression import (
    DECODER,
    DECODER_MS,
    DISTILLATION,
    EVOLUTION,
    FULL_STEPS,
    NOTHING,
    ROBUST,
    STEP_MS,
    STEPS,
    TEXT_MS,
    Compress,
    draw,
    measured,
)
from torch.optim.optimizer import register_optimizer_step_post_hook

import nas.compression._stages as stages
from nas import ImageLatency, LatencyTable, Supernet
from nas.decoder import SlimAutoencoderKL
from nas.errors import DeviceError
from nas.supernet._schedules import probabilities_at
from nas.unet import folded_width


def test_nothing_but_fewer_steps_is_the_stock_pipeline(
    compress: Compress, tmp_path: Path, tiny_pipeline_dir: Path
) -> None:
    result = compress(tmp_path / "run", **NOTHING, image_budget_ms=None)
    assert [record.stage for record in result.records] == ["plan", "latency"]
    assert result.unet_budget_ms is None
    _, picture = draw(result.pipeline)
    assert torch.equal(picture, draw(tiny_pipeline_dir)[1])
    assert result.after.steps == STEPS


def test_the_decoder_alone_as_it_was_pruned(compress: Compress, tmp_path: Path) -> None:
    options = {**NOTHING, "decoder": replace(DECODER, training_steps=0)}
    result = compress(tmp_path / "run", **options, image_budget_ms=None)
    pictures = result.records[1].figures["pictures"]
    assert pictures["mean_psnr_db"] == pictures["mean_psnr_db_pruned"]
    assert type(draw(result.pipeline)[0].vae) is SlimAutoencoderKL


def test_folded_guidance_is_one_run_a_step(compress: Compress, tmp_path: Path, single_table: LatencyTable) -> None:
    options = {**NOTHING, "step_distillation": replace(DISTILLATION, fold=True, route=(STEPS,)), "lut": single_table}
    result = compress(tmp_path / "run", **options, image_budget_ms=1000.0)
    # One text, the decoder as it was, two single runs.
    rest_ms = TEXT_MS + STEPS * STEP_MS + DECODER_MS
    assert result.unet_budget_ms == pytest.approx((1000.0 - rest_ms) / STEPS)
    rows = result.to_frame()
    assert list(rows.unet_runs) == [2 * FULL_STEPS, STEPS]
    assert (result.before.unet_batch_size, result.before.unet_runs) == (2, FULL_STEPS)
    assert (result.after.unet_batch_size, result.after.unet_runs, result.after.text_encoder_runs) == (1, STEPS, 1)
    pipe, guided = draw(result.pipeline)
    assert type(pipe.unet) is UNet2DConditionModel
    assert folded_width(pipe.unet) is not None
    assert not torch.equal(guided, draw(result.pipeline, guidance_scale=8.0)[1])


def test_a_network_that_predicts_noise_learns_v_first(
    compress: Compress, tmp_path: Path, tiny_pipeline_dir: Path
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, local_files_only=True)
    changes = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False, "timestep_spacing": "leading"}
    pipe.scheduler = make_scheduler(**changes)
    options = {**NOTHING, "robust_training": ROBUST, "step_distillation": DISTILLATION, "pipeline": pipe}
    result = compress(tmp_path / "run", **options, image_budget_ms=None)
    # Teacher and student one step each; then 4-full, 4-student, 2-student of two steps each.
    assert result.records[-2].training_steps == 2 * 1 + 3 * 2
    scheduler = DDIMScheduler.from_pretrained(result.pipeline / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.timestep_spacing == "trailing"
    assert float(scheduler.alphas_cumprod[-1]) == 0
    assert pipe.scheduler.config.prediction_type == "epsilon"
    draw(result.pipeline)


def test_the_given_pipeline_is_left_as_it_is(
    compress: Compress, tmp_path: Path, tiny_pipeline: StableDiffusionPipeline
) -> None:
    before = copy.deepcopy(tiny_pipeline.unet.state_dict())
    parts = dict(tiny_pipeline.components)
    options = {**NOTHING, "evolution": replace(EVOLUTION, training_steps=0, train_steps=1, max_rounds=2)}
    compress(tmp_path / "run", **options, pipeline=tiny_pipeline, image_budget_ms=97.0)
    assert all(torch.equal(value, tiny_pipeline.unet.state_dict()[name]) for name, value in before.items())
    assert all(tiny_pipeline.components[name] is part for name, part in parts.items())


def test_training_between_rounds_and_probes_are_counted(compress: Compress, tmp_path: Path) -> None:
    done: list[object] = []
    counting = register_optimizer_step_post_hook(lambda optimizer, args, kwargs: done.append(optimizer))
    evolution = replace(EVOLUTION, training_steps=2, train_steps=1, probe_steps=1, candidates=2, max_rounds=2)
    try:
        result = compress(tmp_path / "run", **{**NOTHING, "evolution": evolution}, image_budget_ms=97.0)
    finally:
        counting.remove()
    assert result.records[1].training_steps == len(done) > 2 + 1 + 1


@pytest.mark.parametrize("schedule", ["ramp", "by_depth", "sandwich"])
def test_skip_schedules_can_be_asked_for(
    compress: Compress, tmp_path: Path, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, train = [], stages.robust_train

    def watched(supernet: Supernet, *arguments: object, **options: object) -> object:
        seen.append([probabilities_at(supernet.skip_schedule, step, supernet.space) for step in (0, 2)])
        return train(supernet, *arguments, **options)

    monkeypatch.setattr(stages, "robust_train", watched)
    robust = replace(ROBUST, training_steps=6, skip_probability=0.5, skip_schedule=schedule)
    compress(tmp_path / "run", **{**NOTHING, "robust_training": robust, "image_budget_ms": None})
    ((first, later),) = seen
    if schedule == "ramp":
        assert (max(first[0].values()), max(later[0].values())) == (0.0, 0.5)
    if schedule == "by_depth":
        assert first == later
        deeper = [probability for probability in first[0].values() if probability]  # fixed blocks have none
        assert 0 < deeper[0] < deeper[-1] <= 0.5
        assert deeper == sorted(deeper)
    if schedule == "sandwich":
        assert [max(path.values()) for path in first] == [0.0, 1.0, 0.5, 0.5]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise DeviceError("torch-cuda is not here")

    monkeypatch.setattr(ImageLatency, "measure", refuse)
    monkeypatch.setattr("nas.compression._plan.measure_decoders_ms", refuse)


@pytest.mark.usefixtures("elsewhere")
def test_a_table_of_a_device_that_is_elsewhere(
    compress: Compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**NOTHING, "decoder": replace(DECODER, training_steps=0)}
    with pytest.raises(DeviceError, match="torch-cuda is not here; give them with image"):
        compress(tmp_path / "run", **options)
    image = ImageLatency.from_components(text_encoder_ms=1.0, unet_ms=9.0, decoder_ms=8.0, steps=50)
    image.save(tmp_path / "image.yaml")
    options["image"] = tmp_path / "image.yaml"
    with pytest.raises(DeviceError, match=r"give decoder\.latency_ms"):
        compress(tmp_path / "run", **options)
    options["decoder"] = replace(DECODER, training_steps=0, latency_ms=3.0)
    # What was refused does not bind: the advice is followed in the same folder.
    result = compress(tmp_path / "run", **options, image_budget_ms=1000.0)
    assert result.unet_budget_ms == pytest.approx((1000.0 - 2 * 1.0 - 3.0) / STEPS)
    assert (result.before, result.after, result.speedup) == (None, None, None)
    # The same recipe where the device is.
    monkeypatch.setattr(ImageLatency, "measure", measured)
    assert compress(tmp_path / "run", **options, image_budget_ms=1000.0).speedup > 1
