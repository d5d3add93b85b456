"""Decoders beside each other, on a device whose times are known and on this one."""

from __future__ import annotations

import pytest
import torch
from autoencoders import make_autoencoder

from nas.decoder import prune_decoder
from nas.errors import ModelError
from nas.latency import Timing, measure_decoders_ms
from nas.latency.devices import Device
from nas.latency.testing import FakeDevice


@pytest.mark.parametrize("kind", ["attention", "tiny"])
def test_each_has_its_time(kind: str) -> None:
    vae = make_autoencoder(kind)
    models = {"slim": prune_decoder(vae), "original": vae}
    found = measure_decoders_ms(models, height=3, width=4, device=FakeDevice())
    # The fake device takes a microsecond for each parameter.
    for name, model in models.items():
        assert found[name].latency_ms == pytest.approx(1e-3 * sum(p.numel() for p in model.parameters()))


def test_they_really_decode_and_are_left_alone(one_thread: Device, quick: Timing) -> None:
    vae = make_autoencoder("attention").train()
    shapes: set[tuple[int, ...]] = set()
    vae.decoder.register_forward_hook(lambda module, args, output: shapes.add((module.training, *output.shape)))
    state = torch.random.get_rng_state()
    found = measure_decoders_ms({"it": vae}, height=3, width=4, batch_size=2, device=one_thread, timing=quick)
    assert found["it"].latency_ms > 0
    assert shapes == {(False, 2, 3, 12, 16)}
    assert all(module.training for module in vae.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_decoders_of_different_latents_are_refused() -> None:
    other = make_autoencoder("tiny")
    other.register_to_config(latent_channels=8)
    with pytest.raises(ModelError, match=r"\[4, 8\] channels"):
        measure_decoders_ms({"one": make_autoencoder("tiny"), "other": other}, height=2, width=2)
    with pytest.raises(ModelError, match="give autoencoders"):
        measure_decoders_ms({}, height=2, width=2)
