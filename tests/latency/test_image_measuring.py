"""The parts of a pipeline, on a device whose times are known and on this one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline

from nas import ImageLatency, Workload
from nas.errors import ModelError, NasError, TableError
from nas.latency import Timing, measure_network_ms
from nas.latency.devices import Device
from nas.latency.testing import FakeDevice


def test_every_part_is_counted(shared_pipeline: StableDiffusionPipeline) -> None:
    found = ImageLatency.measure(shared_pipeline, device=FakeDevice(), steps=5, step_overhead_ms=0.25, constant_ms=2.0)
    sizes = [
        sum(parameter.numel() for parameter in part.parameters())
        for part in (shared_pipeline.text_encoder, shared_pipeline.unet, shared_pipeline.vae)
    ]
    # The fake device takes a microsecond for each parameter.
    text, unet, vae = (1e-3 * size for size in sizes)
    assert found.total_ms == pytest.approx(2 * text + 5 * (unet + 0.25) + vae + 2)
    assert (found.origin, found.provenance["device"], found.provenance["batch_size"]) == ("measured", "fake", 2)
    workload = Workload(2, 8, 8, 16)
    assert found.unet_ms == measure_network_ms(shared_pipeline.unet, workload, device=FakeDevice()).latency_ms


@pytest.mark.parametrize(("options", "batch_size"), [({}, 2), ({"unet_batch_size": 1}, 1), ({"guided": False}, 1)])
def test_the_parts_really_run(
    tiny_pipeline: StableDiffusionPipeline, one_thread: Device, quick: Timing, options: dict[str, Any], batch_size: int
) -> None:
    shapes: dict[str, set[tuple[int, ...]]] = {}

    def note(name: str, of: Any = lambda out: out) -> Any:
        return lambda module, args, out: shapes.setdefault(name, set()).add(tuple(of(out).shape))

    tiny_pipeline.text_encoder.register_forward_hook(note("text", lambda out: out[0]))
    tiny_pipeline.unet.conv_out.register_forward_hook(note("unet"))
    tiny_pipeline.vae.decoder.register_forward_hook(note("decoder"))
    found = ImageLatency.measure(tiny_pipeline, device=one_thread, steps=3, height=4, width=6, timing=quick, **options)
    assert shapes == {"text": {(1, 16, 12)}, "unet": {(batch_size, 4, 4, 6)}, "decoder": {(1, 3, 8, 12)}}
    assert min(found.text_encoder_ms, found.unet_ms, found.decoder_ms, found.step_overhead_ms) > 0
    assert found.provenance["resolution"] == "4x6"


def test_a_scheduler_goes_round_and_is_left_alone(
    tiny_pipeline: StableDiffusionPipeline, one_thread: Device, quick: Timing
) -> None:
    before = dict(vars(tiny_pipeline.scheduler))
    state = torch.random.get_rng_state()
    # Warming up takes more executions than there are steps.
    timing = Timing(**{**vars(quick), "warm_up_ms": 5.0})
    ImageLatency.measure(tiny_pipeline, device=one_thread, steps=1, timing=timing)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(value is before[name] for name, value in vars(tiny_pipeline.scheduler).items())


def test_two_text_encoders_are_added_up(tiny_pipeline: StableDiffusionPipeline) -> None:
    alone = ImageLatency.measure(tiny_pipeline, device=FakeDevice(), steps=1, step_overhead_ms=0.0)
    tiny_pipeline.text_encoder_2, tiny_pipeline.tokenizer_2 = tiny_pipeline.text_encoder, tiny_pipeline.tokenizer
    both = ImageLatency.measure(tiny_pipeline, device=FakeDevice(), steps=1, step_overhead_ms=0.0)
    assert both.text_encoder_ms == pytest.approx(2 * alone.text_encoder_ms)
    assert both.unet_ms == alone.unet_ms


# diffusers' Heun scheduler makes an array of a tensor in a way that NumPy 2 has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("scheduler", [DDIMScheduler, PNDMScheduler, HeunDiscreteScheduler])
def test_the_unet_runs_as_often_as_in_the_pipeline(tiny_pipeline: StableDiffusionPipeline, scheduler: type) -> None:
    options = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    tiny_pipeline.scheduler = scheduler(**options)
    found = ImageLatency.measure(tiny_pipeline, device=FakeDevice(), steps=5, step_overhead_ms=1.0)
    runs: list[int] = []
    tiny_pipeline.unet.register_forward_hook(lambda module, args, out: runs.append(len(out[0])))
    tiny_pipeline("a", num_inference_steps=5, output_type="latent")
    assert runs == [found.unet_batch_size] * found.unet_runs
    assert found.step_overhead_ms * found.steps == len(runs)


def test_steps_that_the_scheduler_has_not_are_refused(tiny_pipeline: StableDiffusionPipeline) -> None:
    device = FakeDevice()
    with pytest.raises(NasError, match="steps is 5000, which the DDIMScheduler cannot do"):
        ImageLatency.measure(tiny_pipeline, device=device, steps=5000)
    assert device.loaded == []


def test_a_second_text_encoder_needs_its_tokenizer(tiny_pipeline: StableDiffusionPipeline) -> None:
    tiny_pipeline.text_encoder_2 = tiny_pipeline.text_encoder
    with pytest.raises(ModelError, match="tokenizer_2"):
        ImageLatency.measure(tiny_pipeline, device=FakeDevice())


def test_a_pipeline_without_a_part_is_refused(tiny_pipeline: StableDiffusionPipeline) -> None:
    tiny_pipeline.text_encoder = None
    with pytest.raises(ModelError, match="text_encoder"):
        ImageLatency.measure(tiny_pipeline, device=FakeDevice())


def test_nothing_is_measured_for_steps_that_cannot_be(shared_pipeline: StableDiffusionPipeline) -> None:
    device = FakeDevice()
    with pytest.raises(TableError, match="steps"):
        ImageLatency.measure(shared_pipeline, device=device, steps=0)
    assert device.loaded == []


@pytest.mark.parametrize(("asked", "precision"), [(None, "fp16"), ("fp32", "fp32")])
def test_the_precision_is_the_devices_unless_somebody_says(
    shared_pipeline: StableDiffusionPipeline, asked: str | None, precision: str
) -> None:
    class Half(FakeDevice):
        usual_precision = "fp16"

    found = ImageLatency.measure(shared_pipeline, device=Half(), steps=5, step_overhead_ms=0.0, precision=asked)
    assert found.provenance["precision"] == precision
    other = "fp32" if precision == "fp16" else "fp16"
    found.require(Workload(2, 8, 8, 16, precision))
    with pytest.raises(TableError, match=f"of precision {precision}, not {other}; measure them for precision {other}"):
        found.require(Workload(2, 8, 8, 16, other))
