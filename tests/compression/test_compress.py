"""The recipe from end to end on a tiny pipeline with made-up times."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from conftest_pipeline import make_scheduler
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
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
    measured,
)
from torch.optim.optimizer import register_optimizer_step_post_hook

import nas.compression._stages as stages
from nas import EvolvedUNet, ImageLatency, LatencyTable, Supernet
from nas.compression import Compression, DataSettings, EvaluationSettings, JudgeSettings
from nas.decoder import SlimAutoencoderKL
from nas.errors import BudgetError, DeviceError, ModelError, NasError, SearchError, TableError
from nas.latency import Timing
from nas.quality import ClipScore
from nas.quality._judge import Judge, Verdict
from nas.supernet._schedules import probabilities_at
from nas.unet import folded_width

Compress = Callable[..., Compression]
STAGES = ["plan", "robust_training", "evolution", "decoder", "step_distillation", "latency", "evaluation"]


def weights(result: Compression) -> dict[str, bytes]:
    return {
        str(file.relative_to(result.pipeline)): file.read_bytes() for file in result.pipeline.rglob("*.safetensors")
    }


def draw(folder: Path, *, guidance_scale: float = 5.0) -> tuple[DiffusionPipeline, torch.Tensor]:
    """The stock pipeline with a picture of it."""
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "guidance_scale": guidance_scale, "output_type": "pt"}
    return pipe, pipe("abc", generator=torch.Generator().manual_seed(0), **options).images


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


def test_a_pipeline_in_half_precision_is_refused(compress: Compress, tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pipeline_dir, local_files_only=True).to(torch.float16)
    with pytest.raises(ModelError, match="load it in float32"):
        compress(tmp_path / "run", pipeline=pipe)
