from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from autoencoders import KINDS, make_autoencoder, make_latents, pictures_of
from hypothesis import given
from hypothesis import strategies as st

from nas import NasError
from nas.decoder import compare_decoders, encode_pictures, prune_decoder, psnr_db
from nas.sampling import decode_latents


@given(difference=st.floats(1e-4, 0.5))
def test_a_constant_difference_has_a_known_psnr(difference: float):
    pictures = torch.full((2, 3, 4, 5), 0.25)
    found = psnr_db(pictures, pictures + difference)
    assert found.tolist() == pytest.approx([-20 * math.log10(difference)] * 2, rel=1e-3)


def test_each_picture_has_its_own_psnr_and_equal_ones_infinite():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 3, 3, 4, 5, generator=generator)
    other[1] = one[1]
    found = psnr_db(one, other)
    errors = ((one.numpy().astype(float) - other.numpy()) ** 2).reshape(3, -1).mean(1)
    assert found[[0, 2]].tolist() == pytest.approx((10 * np.log10(1 / errors[[0, 2]])).tolist())
    assert found[1] == math.inf
    assert torch.equal(found, psnr_db(other, one))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(NasError, match=r"\[1, 3, 4, 4\] and \[2, 3, 4, 4\]"):
        psnr_db(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    vae = make_autoencoder("tiny")
    with pytest.raises(NasError, match="latents"):
        compare_decoders(vae, vae, torch.zeros(0, 4, 2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_comparison_counts_and_compares(kind: str):
    vae = make_autoencoder(kind)
    slim, latents = prune_decoder(vae), make_latents(3)
    found = compare_decoders(slim, vae, latents, batch_size=2)
    assert found.parameters == sum(p.numel() for name, p in slim.named_parameters() if name.startswith("decoder."))
    assert found.times_fewer == pytest.approx(
        sum(p.numel() for p in vae.decoder.parameters()) / sum(p.numel() for p in slim.decoder.parameters())
    )
    scaled = latents / vae.config.scaling_factor
    one, other = ((pictures_of(model, scaled).numpy() / 2 + 0.5).clip(0, 1) for model in (slim, vae))
    errors = ((one - other) ** 2).reshape(3, -1).mean(1)
    assert found.psnr_db == pytest.approx((-10 * np.log10(errors)).tolist(), rel=1e-4)
    assert found.figures()["mean_psnr_db"] == pytest.approx(float(np.mean(found.psnr_db)))


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_pictures_are_what_a_unet_sees(kind: str):
    vae = make_autoencoder(kind)
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = encode_pictures(vae, pictures, batch_size=2)
    with torch.no_grad():
        encoded = vae.encode(2 * pictures - 1)
        plain = encoded.latents if kind == "tiny" else encoded.latent_dist.mean
        through = (vae.decode(plain).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decode_latents(vae, latents), through, rtol=1e-4, atol=1e-5)
