"""The search with the real parts: a measured table, a real scorer, real training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

import nas
from nas import LatencyTable, SearchSpace, Supernet, TeacherDistance
from nas.latency import Timing
from nas.training import TrainingData

ONCE = Timing(
    min_repeats=1, max_repeats=1, min_seconds=0, max_seconds=0, sample_ms=0, warm_up_ms=0, retries=0, canary_repeats=1
)


def test_search_with_probes_training_and_measuring(
    tiny_unet: UNet2DConditionModel, small_space: SearchSpace, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(1)
    latents, contexts = torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 5, 12, generator=generator)
    lut = LatencyTable.measure(small_space, timing=ONCE)
    # One measurement each is too noisy to rely on; any costs will do here.
    least, full = lut.latency_ms(small_space.empty), lut.latency_ms(small_space.full)
    result = nas.evolve(
        Supernet(tiny_unet, small_space),
        lut,
        budget_ms=max((least + full) / 2, least),
        scorer=TeacherDistance(tiny_unet, latents, contexts),
        workdir=tmp_path,
        data=TrainingData(latents, contexts, torch.zeros(1, 5, 12)),
        teacher=tiny_unet,
        scheduler=DDIMScheduler(),
        probe_steps=1,
        final_steps=1,
        training={"batch_size": 2, "learning_rate": 1e-3},
        group_size=1.0,
        max_rounds=1,
    )
    assert result.predicted_ms <= result.budget_ms
    assert result.measured_ms > 0
    assert result.full_ms > 0
    assert result.full_score.mean == pytest.approx(0, abs=1e-6)
    # The full network, probed as its rivals are, is no longer the teacher itself.
    keep = result.history[(result.history.action == "keep") & (result.history["round"] == 0)]
    assert keep.score.item() < 0
    kept = UNet2DConditionModel.from_config(result.unet.config)  # a stock class knows the config
    assert kept.config.block_out_channels == tiny_unet.config.block_out_channels


def test_a_teacher_that_shares_the_weights_is_copied(
    tiny_unet: UNet2DConditionModel, small_space: SearchSpace, tmp_path: Path
) -> None:
    from nas.search._settings import Settings
    from nas.search._training import Lessons

    data = TrainingData(torch.zeros(1, 4, 8, 8), torch.zeros(1, 5, 12), torch.zeros(1, 5, 12))
    supernet, settings = Supernet(tiny_unet, small_space), Settings(train_steps=1)
    options = {"data": data, "scheduler": DDIMScheduler()}
    shared = Lessons.of(supernet, settings, tmp_path, teacher=tiny_unet, **options).teacher
    made = Lessons.of(supernet, settings, tmp_path, teacher=None, **options).teacher
    own = {id(parameter) for parameter in supernet.parameters()}
    for teacher in (shared, made):
        assert not own & {id(parameter) for parameter in teacher.parameters()}
        assert torch.equal(teacher.conv_in.weight, tiny_unet.conv_in.weight)
    other = UNet2DConditionModel.from_config(tiny_unet.config)
    assert Lessons.of(supernet, settings, tmp_path, teacher=other, **options).teacher is other
