from __future__ import annotations

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from nas.unet import SkippedAttention, SkippedResnet, block_of, chain_blocks

HIDDEN = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
TEMB = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2))


def test_a_skipped_resnet_without_a_shortcut_gives_back_its_very_input():
    assert SkippedResnet()(HIDDEN, TEMB) is HIDDEN


def test_a_skipped_resnet_keeps_its_shortcut_and_its_scale():
    shortcut = nn.Conv2d(8, 3, 1)
    assert torch.equal(SkippedResnet(shortcut)(HIDDEN, TEMB), shortcut(HIDDEN))
    assert torch.equal(SkippedResnet(output_scale_factor=2.0)(HIDDEN, TEMB), HIDDEN / 2)
    assert list(SkippedResnet(shortcut).state_dict()) == ["conv_shortcut.weight", "conv_shortcut.bias"]


def test_a_skipped_attention_returns_what_a_transformer_returns():
    assert SkippedAttention()(HIDDEN, encoder_hidden_states=CONTEXT, return_dict=False)[0] is HIDDEN
    assert SkippedAttention()(HIDDEN, CONTEXT).sample is HIDDEN


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_skipping_is_a_residual_branch_of_zero(scale: float):
    block = ResnetBlock2D(in_channels=8, out_channels=4, temb_channels=32, groups=4, output_scale_factor=scale)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    skipped = SkippedResnet(block.conv_shortcut, output_scale_factor=scale)
    torch.testing.assert_close(skipped(HIDDEN, TEMB), block(HIDDEN, TEMB))


@torch.no_grad()
def test_a_chain_of_resnets_runs_them_in_turn():
    torch.manual_seed(0)
    blocks = [ResnetBlock2D(in_channels=8, temb_channels=32, groups=4) for _ in range(3)]
    expected = HIDDEN
    for block in blocks:
        expected = block(expected, TEMB)
    assert torch.equal(chain_blocks(blocks[0], blocks[1:])(HIDDEN, TEMB), expected)


@torch.no_grad()
def test_a_chain_of_attention_runs_them_in_turn(tiny_unet):
    blocks = [block_of(tiny_unet, f"down.0.attention.{index}") for index in (0, 1)]
    chain = chain_blocks(blocks[0], blocks[1:])
    middle = blocks[0](HIDDEN, encoder_hidden_states=CONTEXT, return_dict=False)[0]
    expected = blocks[1](middle, encoder_hidden_states=CONTEXT, return_dict=False)[0]
    assert torch.equal(chain(HIDDEN, encoder_hidden_states=CONTEXT, return_dict=False)[0], expected)


def test_a_chain_keeps_the_keys_of_the_block_and_leaves_the_block_alone(tiny_unet):
    block, copy = (block_of(tiny_unet, f"down.0.resnet.{index}") for index in (0, 1))
    keys = list(block.state_dict())
    chain = chain_blocks(block, [copy])
    assert list(block.state_dict()) == keys
    assert list(chain.state_dict()) == [*keys, *(f"copies.0.{key}" for key in copy.state_dict())]
    assert isinstance(chain, type(block))
    assert chain.conv1.weight is block.conv1.weight
