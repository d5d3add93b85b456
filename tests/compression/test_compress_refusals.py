"""What the recipe refuses, and when, on a tiny pipeline with made-up times."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest_pipeline import make_scheduler
from diffusers import StableDiffusionPipeline
from small_compression import (
    DISTILLATION,
    EVOLUTION,
    Compress,
)

from nas.compression import DataSettings, EvaluationSettings, JudgeSettings
from nas.errors import BudgetError, DeviceError, ModelError, NasError, TableError


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"image_budget_ms": 20.0}, BudgetError, "leaves 1.50 ms for one run of the UNet"),
        ({"image_budget_ms": 500.0}, BudgetError, "leaves 241.50 ms for the UNet: .* met by the full network"),
        ({"evolution": replace(EVOLUTION, margin=0.9)}, TableError, "no validation"),
        ({"image_budget_ms": 5.0}, BudgetError, "no UNet is fast enough"),
        ({"evolution": False, "image_budget_ms": 60.0}, BudgetError, "attainable for the image"),
        ({"pipeline": "nowhere"}, NasError, "nowhere"),
        ({"lut": "nowhere"}, TableError, "nowhere"),
        ({"unet": "nowhere"}, NasError, "nowhere"),
        ({"judge": JudgeSettings(clip="nowhere")}, NasError, "nowhere"),
        ({"judge": JudgeSettings(prompts="nowhere.txt")}, NasError, "judge.prompts"),
        ({"data": DataSettings(prompts=[])}, NasError, "no prompts"),
        ({"evaluation": True}, NasError, "pictures/test.png.* evaluation.real"),
        ({"evaluation": EvaluationSettings(real="nowhere")}, NasError, "nowhere"),
        ({"step_distillation": replace(DISTILLATION, fold=True)}, TableError, "folded into the UNet.* batch size 1"),
        ({"guidance_scale": 1.0}, TableError, "no guidance: measure one with batch size 1"),
        ({"step_distillation": replace(DISTILLATION, route=(4, 3))}, NasError, "must end with the recipe's steps, 2"),
        ({"steps": 0}, NasError, "steps is 0"),
        ({"mixed_precision": "fp8"}, NasError, "choose bf16, fp16"),
        ({"compute_on": "nowhere"}, DeviceError, "cannot compute on 'nowhere'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    compress: Compress, tmp_path: Path, changes: dict, kind: type, words: str
) -> None:
    with pytest.raises(kind, match=words):
        compress(tmp_path / "run", **changes)
    assert list((tmp_path / "run").glob("[!dp]*")) == []


def test_several_processes_are_refused(compress: Compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NasError, match="runs in one process"):
        compress(tmp_path / "run")


def test_what_steps_cannot_be_distilled_of_is_refused_at_once(
    compress: Compress, tmp_path: Path, tiny_pipeline: StableDiffusionPipeline
) -> None:
    pipe = copy.copy(tiny_pipeline)
    pipe.scheduler = make_scheduler(prediction_type="sample", rescale_betas_zero_snr=False)
    with pytest.raises(ModelError, match="predicts 'sample'"):
        compress(tmp_path / "run", pipeline=pipe)


def test_a_second_precision_in_one_process_is_refused_at_once(compress: Compress, tmp_path: Path) -> None:
    Accelerator(cpu=True, mixed_precision="no")
    with pytest.raises(NasError, match=r"cannot train in bf16 here.* start another one"):
        compress(tmp_path / "run", mixed_precision="bf16")


def test_a_pipeline_in_half_precision_is_refused(compress: Compress, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, local_files_only=True).to(torch.float16)
    with pytest.raises(ModelError, match="load it in float32"):
        compress(tmp_path / "run", pipeline=pipe)
