"""The recipe from end to end on a tiny pipeline with made-up times."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from small_compression import (
    BUDGET_MS,
    DECODER,
    DECODER_MS,
    DISTILLATION,
    EVOLUTION,
    FULL_STEPS,
    NOTHING,
    ROBUST,
    SLIM_MS,
    STEP_MS,
    STEPS,
    TEXT_MS,
    UNET_MS,
    Compress,
    draw,
    weights,
)

from nas import EvolvedUNet, ImageLatency, LatencyTable
from nas.compression import Compression, DataSettings, EvaluationSettings, JudgeSettings
from nas.decoder import SlimAutoencoderKL
from nas.errors import SearchError
from nas.latency import Timing
from nas.quality import ClipScore
from nas.quality._judge import Judge, Verdict

STAGES = ["plan", "robust_training", "evolution", "decoder", "step_distillation", "latency", "evaluation"]


def test_every_stage_leaves_its_result_and_its_record(whole: Compression, table: LatencyTable) -> None:
    assert [record.stage for record in whole.records] == STAGES
    assert all(record.finished and record.seconds > 0 for record in whole.records)
    assert [record.training_steps for record in whole.records] == [0, 2, 1, 2, 3 * 2, 0, 0]
    for stage in STAGES:
        assert json.loads((whole.folder / stage / "record.json").read_text())["finished"]
        assert list((whole.folder / stage).glob("*.pt")) == []
    rows = whole.to_frame().set_index("stage")
    full_ms = table.latency_ms(table.space.full)
    assert rows.unet_ms["plan"] == rows.unet_ms["robust_training"] == full_ms
    assert rows.unet_ms["evolution"] == rows.unet_ms["step_distillation"] <= 25.0 == whole.unet_budget_ms
    assert list(rows.steps) == [FULL_STEPS] * 4 + [STEPS]
    assert list(rows.decoder_ms) == [DECODER_MS] * 3 + [SLIM_MS] * 2
    rest_ms = 2 * TEXT_MS + DECODER_MS + FULL_STEPS * STEP_MS
    assert rows.image_ms["plan"] == pytest.approx(rest_ms + FULL_STEPS * full_ms)
    assert rows.image_ms["step_distillation"] <= BUDGET_MS
    assert rows.unet_parameters["evolution"] < rows.unet_parameters["plan"]
    assert rows.decoder_parameters["decoder"] < 0.5 * rows.decoder_parameters["plan"]


def test_the_report_has_the_measured_shares(whole: Compression) -> None:
    before_ms = 2 * TEXT_MS + FULL_STEPS * (UNET_MS + STEP_MS) + DECODER_MS
    after_ms = 2 * TEXT_MS + STEPS * (UNET_MS + STEP_MS) + SLIM_MS
    assert whole.speedup == pytest.approx(before_ms / after_ms)
    report = json.loads(whole.report.read_text())
    shares = {part["component"]: part["share"] for part in report["after"]["parts"]}
    assert shares["decoder"] == pytest.approx(SLIM_MS / after_ms)
    assert [stage["stage"] for stage in report["stages"]] == STAGES
    assert "clip_scores" not in report["stages"][0]["model"]
    assert report["stages"][0]["model"]["clip_score_gain"] == 0
    assert report["stages"][-1]["reference"] == "full, 4 steps"
    assert set(report["stages"][-1]["differences"]) == set(whole.evaluation.models[1:])
    assert report["stages"][3]["pictures"]["pictures"] == 2


def test_the_evaluation_compares_what_it_was_with_what_it_is(whole: Compression) -> None:
    assert whole.evaluation.models == (
        "full, 4 steps",
        "full, 2 steps",
        "full, 2 steps, DPM-Solver++",
        "compressed but not distilled, 2 steps",
        "compressed, 2 steps",
    )
    assert whole.evaluation.point("full, 4 steps", 5.0).clip_score.values.shape == (2,)


def test_stock_code_loads_the_pipeline_and_draws_with_it(whole: Compression, tiny_pipeline_dir: Path) -> None:
    pipe, picture = draw(whole.pipeline)
    assert (type(pipe.unet), type(pipe.vae)) == (EvolvedUNet, SlimAutoencoderKL)
    assert type(pipe) is StableDiffusionPipeline
    parts = {
        "unet": EvolvedUNet.from_pretrained(whole.folder / "step_distillation" / "unet"),
        "vae": SlimAutoencoderKL.from_pretrained(whole.folder / "decoder" / "vae"),
    }
    by_hand = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, local_files_only=True, **parts)
    by_hand.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "pt"}
    assert torch.equal(by_hand("abc", generator=torch.Generator().manual_seed(0), **options).images, picture)


def test_the_last_score_is_the_finished_pipelines(whole: Compression, tiny_pipeline_dir: Path) -> None:
    pipe, _ = draw(whole.pipeline)
    prompts = [entry["caption"] for entry in json.loads((tiny_pipeline_dir / "captions/validation.json").read_text())]
    judge = ClipScore(pipe, clip=tiny_pipeline_dir / "clip", prompts=shuffled(prompts)[:2], steps=STEPS)
    assert whole.to_frame().clip_score.iloc[-1] == pytest.approx(judge(pipe.unet).mean, abs=1e-6)
    stock = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, local_files_only=True)
    before = ClipScore(stock, clip=tiny_pipeline_dir / "clip", prompts=judge.prompts, steps=FULL_STEPS)(stock.unet)
    found, gain = whole.to_frame().iloc[-1], judge(pipe.unet).minus(before)
    figures = found.clip_score_gain, found.clip_score_gain_low, found.clip_score_gain_high
    assert figures == pytest.approx((gain.mean, gain.low, gain.high), abs=1e-5)


def test_an_image_is_measured_again_where_it_is_another(
    whole: Compression, compress: Compress, tmp_path: Path, known_times: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    record = json.loads((folder / "latency/record.json").read_text())
    record["identity"]["model"] = "what an earlier stage gave before it was done anew"
    (folder / "latency/record.json").write_text(json.dumps(record))
    assert compress(folder, timing=Timing(max_seconds=9.0)).speedup == whole.speedup
    assert json.loads((folder / "latency/record.json").read_text())["identity"]["timing"]["max_seconds"] == 9.0
    assert json.loads((folder / "latency/record.json").read_text())["identity"]["model"] != record["identity"]["model"]


def shuffled(prompts: list[str]) -> list[str]:
    import random

    random.Random(0).shuffle(prompts)
    return prompts


def test_what_is_finished_is_read(
    whole: Compression, compress: Compress, monkeypatch: pytest.MonkeyPatch, known_times: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **options: object) -> None:
        raise AssertionError("it was done before")

    for name in ("robust_train", "evolve", "distil_decoder", "distil_route"):
        monkeypatch.setattr(f"nas.compression._stages.{name}", never)
    monkeypatch.setattr(ImageLatency, "measure", never)
    monkeypatch.setattr(ClipScore, "__call__", never)
    before = weights(whole)
    again = compress(whole.folder)
    assert weights(again) == before
    assert again.to_dict() == whole.to_dict()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_budget_ms": BUDGET_MS + 1}, "plan.* image_budget_ms = 67.0, this recipe has 68.0"),
        ({"seed": 1}, "plan.* seed = 0"),
        ({"data": DataSettings(max_prompts=3, steps=1)}, "plan.* data.prompts"),
        ({"judge": JudgeSettings(max_prompts=2, steps=2)}, "plan.* judge.steps = 1, this recipe has 2"),
        ({"robust_training": replace(ROBUST, learning_rate=0.1)}, "robust_training.* settings.learning_rate = 0.001"),
        ({"robust_training": False}, "evolution.* model ="),
        ({"decoder": replace(DECODER, training_steps=3)}, "decoder.* settings.training_steps = 2"),
        ({"step_distillation": replace(DISTILLATION, route=(STEPS,))}, r"route = \[4, 2\], this recipe has \[2\]"),
    ],
)
def test_another_recipe_is_refused_in_the_same_folder(
    whole: Compression, compress: Compress, changes: dict, words: str
) -> None:
    with pytest.raises(SearchError, match=words):
        compress(whole.folder, **changes)


def test_how_memory_is_saved_and_what_is_said_may_change(whole: Compression, compress: Compress) -> None:
    route = replace(DISTILLATION, route=(2 * STEPS, STEPS))  # the same, said
    again = compress(whole.folder, decoder=replace(DECODER, accumulate=2), step_distillation=route)
    assert weights(again) == weights(whole)


def test_a_run_stopped_again_and_again_gives_the_same_weights(
    whole: Compression, compress: Compress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call gets two training steps further, then fails."""
    from nas.training._run import Run

    note, left = Run.note, [0]

    def failing(run: Run, losses: dict, *, last: bool) -> None:
        if left[0] == 0:
            raise RuntimeError("stopped")
        left[0] -= 1
        note(run, losses, last=last)

    monkeypatch.setattr(Run, "note", failing)
    result, calls = None, 0
    while result is None:
        left[0], calls = 2, calls + 1
        try:
            result = compress(tmp_path / "run", evaluation=False)
        except RuntimeError:
            assert calls < 10
    assert calls == 6
    assert weights(result) == weights(whole)
    assert [record.training_steps for record in result.records] == [0, 2, 1, 2, 3 * 2, 0]
    last, expected = result.to_frame().iloc[-1], whole.to_frame().iloc[-1]
    assert last.clip_score == expected.clip_score


@pytest.mark.slow
def test_sigkill_at_many_points_gives_the_same_weights(
    whole: Compression, tiny_pipeline_dir: Path, table: LatencyTable, photos: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("killed_compression.py")
    table.save(tmp_path / "table.yaml")
    told = [tiny_pipeline_dir, tmp_path / "table.yaml", photos, tmp_path / "run", 12]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, script, *map(str, told)], env=env, capture_output=True, text=True, timeout=600, check=True
    )
    assert int(ran.stdout) > 3
    files = {file.relative_to(whole.pipeline): file.read_bytes() for file in whole.pipeline.rglob("*.safetensors")}
    assert files
    for name, content in files.items():
        assert (tmp_path / "run/pipeline" / name).read_bytes() == content


def test_an_evaluation_is_told_apart_by_its_pictures_and_keeps_its_points(
    whole: Compression, compress: Compress, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, pictures = shutil.copytree(whole.folder, tmp_path / "run"), shutil.copytree(photos, tmp_path / "photos")
    drawn: list[float] = []
    judge = Judge.__call__

    def counted(self: Judge, pictures: Iterable[torch.Tensor]) -> Verdict:
        drawn.append(1.0)
        return judge(self, pictures)

    monkeypatch.setattr(Judge, "__call__", counted)
    settings = EvaluationSettings(max_prompts=2, guidance_scales=(1.0, 5.0, 7.0), real=pictures)
    more = compress(run, evaluation=settings).evaluation
    assert len(drawn) == len(more.models), "the same pictures in another folder, one more guidance"
    (pictures / "0.png").write_bytes((pictures / "1.png").read_bytes())
    others = compress(run, evaluation=settings).evaluation
    first = more.models[0]
    assert others.point(first, 5.0).kid.value != more.point(first, 5.0).kid.value
    assert others.point(first, 5.0).clip_score.mean == more.point(first, 5.0).clip_score.mean


def test_mixed_precision(whole: Compression, compress: Compress, tmp_path: Path) -> None:
    options = {**NOTHING, "robust_training": ROBUST, "decoder": DECODER, "evolution": EVOLUTION}
    options["step_distillation"] = DISTILLATION
    result = compress(tmp_path / "run", **options, mixed_precision="bf16", compute_on="cpu")
    assert [record.training_steps for record in result.records] == [0, 2, 1, 2, 3 * 2, 0]
    pipe, picture = draw(result.pipeline)
    assert pipe.unet.dtype == torch.float32
    assert torch.isfinite(picture).all()
    assert weights(result).keys() == weights(whole).keys()
    assert weights(result) != weights(whole)
