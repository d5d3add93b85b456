"""Every training in bf16, as mixed precision and with weights in it, beside the same training in float32."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from autoencoders import make_autoencoder, make_latents
from conftest_pipeline import make_scheduler
from small_training import SCHEDULER, make_data, make_teacher, make_unet, run
from torch import nn

from nas.decoder import distil_decoder
from nas.training import Settings, distil_route, to_v_prediction, train
from nas.training.losses import data_loss

OPTIONS = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}


def robust(dtype, **options):
    return run("robust", change=lambda net: net.to(dtype), **options)


def v_prediction(dtype, **options):
    network = make_unet().to(dtype)
    epsilon = make_scheduler(prediction_type="epsilon", rescale_betas_zero_snr=False)
    return to_v_prediction(network, make_data(), scheduler=epsilon, **OPTIONS, **options).log, network


def route(dtype, **options):
    stages = distil_route(
        make_teacher().to(dtype),
        make_data(),
        scheduler=SCHEDULER,
        route=(8, 4),
        student=make_unet().to(dtype),
        guided_share=0.5,
        guidance_range=(1.0, 4.0),
        **OPTIONS,
        **options,
    )
    assert all(math.isfinite(loss) for stage in stages for loss in stage.log.losses)
    # The student's losses under the teacher itself. A copy of the teacher has hardly any, which rounding decides, and
    # that copy teaches the last stage.
    [log] = [stage.log for stage in stages if stage.name == "8-student"]
    return log, stages[-1].network


def steps(dtype, **options):
    return run("steps", change=lambda net: net.to(dtype), ema_decay=0.5, **options)


def folded(dtype, **options):
    return run("folded", change=lambda net: net.to(dtype), **options)


def decoder(dtype, **options):
    networks = [make_autoencoder("attention", seed=seed).to(dtype) for seed in (0, 1)]
    return distil_decoder(*networks, make_latents(6), **OPTIONS, **options), networks[0].decoder


STAGES = [robust, v_prediction, steps, folded, route, decoder]


@pytest.mark.parametrize("kind", ["mixed", "weights"])
@pytest.mark.parametrize("stage", STAGES)
def test_losses_are_near_those_of_float32(stage, kind):
    exact, whole = stage(torch.float32)
    if kind == "mixed":
        log, network = stage(torch.float32, accelerator=Accelerator(cpu=True, mixed_precision="bf16"))
    else:
        log, network = stage(torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {
        torch.float32 if kind == "mixed" else torch.bfloat16
    }
    assert all(map(math.isfinite, log.losses))
    assert log.losses != exact.losses
    assert log.losses == pytest.approx(exact.losses, rel=0.1)
    for name, losses in exact.parts.items():
        assert log.parts[name] == pytest.approx(losses, rel=0.1)
    assert all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters())
    off = sum((a.float() - b).square().sum() for a, b in zip(network.parameters(), whole.parameters(), strict=True))
    size = sum(parameter.square().sum() for parameter in whole.parameters())
    assert off < 1e-3 * size


def test_the_average_of_weights_in_bf16_moves():
    """A thousandth of a step is below what bf16 can add to 1; the average is kept in float32, so it adds up."""

    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

        def forward(self, values):
            return self.weight * values

    network = Moving()

    def objective(step):
        with torch.no_grad():
            network.weight.fill_(2.0)
        return [lambda: {"loss": 0.0 * data_loss(step.model(torch.ones(3)), torch.zeros(3))}]

    settings = Settings(batch_size=1, learning_rate=1e-9, weight_decay=0.0, ema_decay=0.999)
    train(network, objective, settings, steps=100)
    assert network.weight.dtype == torch.bfloat16
    assert network.weight.tolist() == pytest.approx([2 - 0.999**100] * 3, rel=0.01)


@pytest.mark.parametrize(
    ("capability", "dtype", "told"),
    [
        ("AVX2", torch.bfloat16, True),
        ("AVX2", torch.float32, False),
        ("AVX512", torch.bfloat16, False),
    ],
)
def test_where_bf16_is_emulated_people_are_told(capability, dtype, told, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    robust(dtype)
    assert ("has no bf16" in capsys.readouterr().err) is told


def test_mixed_precision_is_emulated_too(monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    robust(torch.float32, accelerator=Accelerator(cpu=True, mixed_precision="bf16"))
    assert "has no bf16" in capsys.readouterr().err
