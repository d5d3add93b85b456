from __future__ import annotations

import pytest
import torch
from autoencoders import KINDS, TINY, make_autoencoder, make_latents, pictures_of
from diffusers import AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas import NasError
from nas.decoder import compare_decoders, prune_decoder
from nas.decoder._channels import IN, channel_sets
from nas.decoder._refit import _inputs, _rows, _solve

LATENTS = make_latents(24, rows=4, columns=4)


def error(slim: nn.Module, vae: nn.Module, latents: torch.Tensor) -> float:
    return float((pictures_of(slim, latents) - pictures_of(vae, latents)).square().mean())


@torch.no_grad()
def with_copies(vae: AutoencoderTiny, scale: float) -> AutoencoderTiny:
    """A decoder of twice the width that gives the same pictures: each channel has a copy, `scale` times as large.

    Readers take a share of `scale` squared from the copies. ReLU lets scales through.
    """
    wide = AutoencoderTiny(**TINY, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(16,) * 4).eval()
    state = dict(vae.state_dict())
    sets = channel_sets(vae.decoder)
    writers = {use.name for channels in sets for use in channels.writers}
    readers = {use.name for channels in sets for use in channels.readers if use.dim == IN}
    for key, tensor in state.items():
        name, _, _ = key.removeprefix("decoder.").rpartition(".")
        if name in readers and tensor.ndim > 1:
            tensor = torch.cat([tensor * (1 - scale**2), tensor * scale], 1)
        if name in writers and key.startswith("decoder."):
            tensor = torch.cat([tensor, tensor * scale])
        state[key] = tensor
    wide.load_state_dict(state)
    return wide


def test_what_is_left_takes_over_from_copies_that_are_gone():
    narrow = make_autoencoder("tiny")
    wide = with_copies(narrow, 0.1)
    torch.testing.assert_close(pictures_of(wide, LATENTS), pictures_of(narrow, LATENTS), rtol=1e-3, atol=1e-4)
    inherited, refitted = prune_decoder(wide, 0.5), prune_decoder(wide, 0.5, latents=LATENTS)
    unseen = make_latents(3, rows=5, columns=6)
    assert error(refitted, wide, unseen) < 1e-2 * error(inherited, wide, unseen)


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_channel_kept_there_is_nothing_to_refit(kind: str):
    vae = make_autoencoder(kind)
    found = pictures_of(prune_decoder(vae, 1, latents=LATENTS), LATENTS)
    torch.testing.assert_close(found, pictures_of(vae, LATENTS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_closer_than_with_inherited_weights(kind: str):
    vae = make_autoencoder(kind)
    inherited, refitted = prune_decoder(vae, 0.5), prune_decoder(vae, 0.5, latents=LATENTS)
    unseen = make_latents(8, rows=4, columns=4) + 0.1
    closer = [compare_decoders(slim, vae, unseen).mean_psnr_db for slim in (refitted, inherited)]
    assert closer[0] > closer[1]
    own, before = refitted.state_dict(), vae.state_dict()
    assert all(torch.equal(own[name], before[name]) for name in own if not name.startswith("decoder."))


@settings(max_examples=10, deadline=None)
@given(keep=st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3))
def test_any_share_gives_finite_pictures(keep: list[float]):
    vae = make_autoencoder("attention")
    vae.decoder.train()
    slim = prune_decoder(vae, keep, latents=LATENTS[:2])
    assert pictures_of(slim, LATENTS).isfinite().all()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*vae.modules(), *slim.modules()))
    assert vae.decoder.training
    assert not vae.training


def test_latents_that_are_all_alike_leave_finite_weights():
    vae = make_autoencoder("attention")
    slim = prune_decoder(vae, latents=torch.zeros(2, 4, 3, 3))
    assert all(parameter.isfinite().all() for parameter in slim.parameters())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 1, bias=False), nn.Linear(3, 5)])
@torch.no_grad()
def test_inputs_times_weights_are_the_outputs(layer: nn.Module):
    shape = (2, 7, 3) if isinstance(layer, nn.Linear) else (2, 3, 4, 5)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    bias = 0 if layer.bias is None else layer.bias
    expected = _inputs(layer, values) @ layer.weight.flatten(1).T + bias
    torch.testing.assert_close(expected, _rows(layer(values)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_layer_gets_the_weights_that_made_its_outputs():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 6, generator=generator)
    right = nn.Linear(6, 4)
    layer = nn.Linear(6, 4)
    _solve(layer, inputs, right(inputs))
    torch.testing.assert_close(layer.weight, right.weight, rtol=0, atol=1e-3)
    torch.testing.assert_close(layer.bias, right.bias, rtol=0, atol=1e-3)


@pytest.mark.parametrize("latents", [torch.zeros(0, 4, 2, 2), torch.zeros(4, 2, 2), torch.zeros(1, 3, 2, 2)])
def test_latents_that_do_not_fit_are_refused(latents: torch.Tensor):
    with pytest.raises(NasError, match="latents"):
        prune_decoder(make_autoencoder("tiny"), latents=latents)
