from __future__ import annotations

import copy

import pytest
import torch
from autoencoders import KINDS, make_autoencoder, make_latents, pictures_of
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.decoder import SlimAutoencoderKL, prune_decoder
from nas.decoder._channels import IN, channel_sets, count_of, group_size_of
from nas.errors import ModelError, NasError

shares = st.floats(0.01, 1.0)
kl_kinds = st.sampled_from([kind for kind in KINDS if kind != "tiny"])
quick = settings(max_examples=20, deadline=None)


def prune_any(kind: str, keep: list[float]):
    vae = make_autoencoder(kind)
    return vae, prune_decoder(vae, keep[0] if kind == "tiny" else keep)


def widths_of(vae) -> list[int]:
    return list(vae.config.decoder_block_out_channels)


@torch.no_grad()
def kill(vae, widths: list[int], seed: int) -> None:
    """Make all but `widths` channels of every set dead, at random: nothing writes them and nothing reads them."""
    generator = torch.Generator().manual_seed(seed)
    for channels in channel_sets(vae.decoder):
        size, count = group_size_of(channels, vae.decoder), count_of(channels, vae.decoder)
        alive = min(widths[use.level] for use in channels.uses)
        groups = torch.randperm(count // size, generator=generator)[alive // size :]
        dead = (groups[:, None] * size + torch.arange(size)).flatten()
        for use in (*channels.writers, *channels.readers):
            module = vae.decoder.get_submodule(use.name)
            module.weight.transpose(0, use.dim)[dead] = 0
            if use.dim != IN and module.bias is not None:
                module.bias[dead] = 0


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_channel_kept_the_pictures_are_the_same(kind: str):
    vae = make_autoencoder(kind)
    assert torch.equal(pictures_of(prune_decoder(vae, 1), make_latents()), pictures_of(vae, make_latents()))


@quick
@given(kind=st.sampled_from(KINDS), keep=st.lists(shares, min_size=3, max_size=3), seed=st.integers(0, 99))
def test_dead_channels_are_taken_out_without_any_change(kind: str, keep: list[float], seed: int):
    vae, slim = prune_any(kind, keep)
    widths = widths_of(slim)
    kill(vae, widths, seed)
    expected = pictures_of(vae, make_latents())
    pruned = prune_decoder(vae, keep[0] if kind == "tiny" else keep)
    assert widths_of(pruned) == widths
    assert_close(pictures_of(pruned, make_latents()), expected)


@quick
@given(kind=st.sampled_from(KINDS), keep=st.lists(shares, min_size=3, max_size=3))
def test_any_share_gives_finite_pictures_of_the_right_size_that_come_back(tmp_path_factory, kind: str, keep):
    vae, slim = prune_any(kind, keep)
    pictures = pictures_of(slim, make_latents())
    assert pictures.shape == pictures_of(vae, make_latents()).shape
    assert pictures.isfinite().all()
    folder = tmp_path_factory.mktemp("slim")
    slim.save_pretrained(folder)
    for low_cpu_mem_usage in (True, False):
        loaded = type(slim).from_pretrained(folder, low_cpu_mem_usage=low_cpu_mem_usage)
        assert widths_of(loaded) == widths_of(slim)
        assert torch.equal(pictures_of(loaded, make_latents()), pictures)


@quick
@given(kind=kl_kinds, keep=st.lists(shares, min_size=3, max_size=3))
def test_a_level_keeps_its_share_of_groups_and_groups_keep_their_size(kind: str, keep: list[float]):
    vae, slim = prune_any(kind, keep)
    for share, width, groups, whole in zip(
        keep, widths_of(slim), slim.config.decoder_norm_num_groups, vae.config.block_out_channels, strict=True
    ):
        assert width / groups == whole / 4
        assert abs(groups - 4 * share) <= 0.5 or groups == 1


@quick
@given(first=st.lists(shares, min_size=3, max_size=3), second=st.lists(shares, min_size=3, max_size=3))
def test_what_was_pruned_can_be_pruned_again(first: list[float], second: list[float]):
    _, slim = prune_any("attention", first)
    again = prune_decoder(slim, second)
    assert all(one <= other for one, other in zip(widths_of(again), widths_of(slim), strict=True))
    assert pictures_of(again, make_latents()).isfinite().all()
    assert torch.equal(pictures_of(prune_decoder(slim, 1), make_latents()), pictures_of(slim, make_latents()))


def test_groups_whose_weights_are_largest_stay():
    vae = make_autoencoder("plain")
    # Of the eight channels of the first up-sampler's stream, four pairs.
    ranked = next(s for s in channel_sets(vae.decoder) if s.writers[0].name == "up_blocks.1.resnets.0.conv_shortcut")
    with torch.no_grad():
        for use in ranked.readers:
            vae.decoder.get_submodule(use.name).weight[:, 6:9] *= 10
    slim = prune_decoder(vae, (1.0, 0.25, 1.0))
    assert torch.equal(
        slim.decoder.up_blocks[1].resnets[0].conv_shortcut.weight,
        vae.decoder.up_blocks[1].resnets[0].conv_shortcut.weight[6:9],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_everything_but_the_decoder_is_a_copy(kind: str):
    vae = make_autoencoder(kind)
    before = copy.deepcopy(vae.state_dict())
    slim = prune_decoder(vae)
    own = slim.state_dict()
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name])
        if not name.startswith("decoder."):
            assert torch.equal(tensor, own[name])
    pointers = {tensor.data_ptr() for tensor in vae.state_dict().values()}
    assert not pointers & {tensor.data_ptr() for tensor in own.values()}
    assert all(parameter.requires_grad for parameter in slim.parameters())
    assert not any(module.training for module in slim.modules())


def test_the_random_state_of_torch_and_the_precision_stay():
    vae = make_autoencoder("attention").to(torch.bfloat16)
    state = torch.random.get_rng_state()
    slim = prune_decoder(vae)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert {parameter.dtype for parameter in slim.parameters()} == {torch.bfloat16}


def test_half_of_the_channels_are_a_quarter_of_the_weights():
    vae = make_autoencoder("plain")
    counts = [sum(p.numel() for p in model.decoder.parameters()) for model in (vae, prune_decoder(vae, 0.5))]
    assert 3.5 < counts[0] / counts[1] < 4


def test_kinds():
    assert type(prune_decoder(make_autoencoder("plain"))) is SlimAutoencoderKL
    assert isinstance(prune_decoder(make_autoencoder("plain")), AutoencoderKL)
    assert type(prune_decoder(make_autoencoder("tiny"))) is AutoencoderTiny


@pytest.mark.parametrize("keep", [0, -1, 1.5, float("nan"), True, "half", (0.5, 0.5), (0.5, 0.5, 0)])
def test_a_share_that_makes_no_sense_is_refused(keep: object):
    with pytest.raises(NasError, match="keep"):
        prune_decoder(make_autoencoder("plain"), keep)


def test_what_cannot_be_pruned_is_refused(tiny_unet: UNet2DConditionModel):
    with pytest.raises(ModelError, match="UNet2DConditionModel"):
        prune_decoder(tiny_unet)
    with pytest.raises(NasError, match="one width"):
        prune_decoder(make_autoencoder("tiny"), (0.5, 1.0, 1.0, 1.0))
    odd = AutoencoderKL(up_block_types=("AttnUpDecoderBlock2D",), block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(ModelError, match="AttnUpDecoderBlock2D"):
        prune_decoder(odd)
