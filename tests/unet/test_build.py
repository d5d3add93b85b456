from __future__ import annotations

import pytest
import torch

from nas import SearchSpace, Workload
from nas.errors import ArchitectureError, ModelError
from nas.unet import block_inputs, block_of, make_block, make_copy, make_shortcut


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


@torch.no_grad()
def test_a_block_built_from_its_fields_is_the_one_diffusers_builds(tiny_unet, tiny_space):
    workload = Workload.of(tiny_space)
    for block in tiny_space.blocks:
        module, built = block_of(tiny_unet, block), make_block(block).eval()
        built.load_state_dict(module.state_dict())  # strict: the same names and shapes
        args, kwargs = block_inputs(block, workload)
        assert torch.equal(first(built(*args, **kwargs)), first(module(*args, **kwargs)))


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_blocks_of_real_models_have_their_sizes(name: str):
    distinct = {(b.kind, b.in_channels, b.out_channels, b.options): b for b in SearchSpace.load(name).blocks}
    with torch.device("meta"):
        for block in distinct.values():
            assert sum(p.numel() for p in make_block(block).parameters()) == block.parameters


def test_a_shortcut_is_the_one_of_the_block(tiny_unet, tiny_space):
    for block in tiny_space.blocks:
        if block.has_shortcut:
            assert make_shortcut(block).weight.shape == block_of(tiny_unet, block).conv_shortcut.weight.shape
    with pytest.raises(ArchitectureError, match="no shortcut"):
        make_shortcut(tiny_space.block("down.0.resnet.0"))


@torch.no_grad()
def test_an_identity_copy_preserves_the_function_exactly(tiny_unet, tiny_space):
    workload = Workload.of(tiny_space)
    for block in tiny_space.blocks:
        copy = make_copy(block, block_of(tiny_unet, block))
        args, kwargs = block_inputs(block, workload, copy=True)
        assert torch.equal(first(copy(*args, **kwargs)), args[0])


def test_an_identity_copy_can_learn(tiny_unet, tiny_space):
    block = tiny_space.block("down.1.resnet.0")
    copy = make_copy(block, block_of(tiny_unet, block))
    args, kwargs = block_inputs(block, Workload.of(tiny_space), copy=True)
    copy(*args, **kwargs).square().sum().backward()
    assert copy.conv2.weight.grad.abs().max() > 0


@torch.no_grad()
def test_a_plain_copy_of_a_block_that_keeps_its_channels_computes_the_same(tiny_unet, tiny_space):
    workload = Workload.of(tiny_space)
    for block in tiny_space.blocks:
        if block.in_channels == block.out_channels:
            module = block_of(tiny_unet, block)
            copy = make_copy(block, module, init="plain")
            args, kwargs = block_inputs(block, workload)
            assert torch.equal(first(copy(*args, **kwargs)), first(module(*args, **kwargs)))
            assert not {p.data_ptr() for p in copy.parameters()} & {p.data_ptr() for p in module.parameters()}


@pytest.mark.parametrize("place", ["down.1.resnet.0", "up.2.resnet.0"])  # 8 -> 16 and 24 -> 8 channels
def test_a_plain_copy_of_a_block_that_changes_channels_takes_the_weights_that_fit(tiny_unet, tiny_space, place: str):
    block, module = tiny_space.block(place), block_of(tiny_unet, place)
    copy = make_copy(block, module, init="plain")
    common = min(block.in_channels, block.out_channels)
    assert torch.equal(copy.conv1.weight[:, :common], module.conv1.weight[:, :common])
    assert copy.conv1.weight[:, common:].abs().sum() == 0
    assert torch.equal(copy.norm1.weight[:common], module.norm1.weight[:common])
    assert torch.equal(copy.conv2.weight, module.conv2.weight)
    assert copy.conv_shortcut is None
    assert not {p.data_ptr() for p in copy.parameters()} & {p.data_ptr() for p in module.parameters()}


def test_a_copy_has_the_kind_of_weights_of_its_block(tiny_unet, tiny_space):
    state = torch.random.get_rng_state()
    for place in ("down.1.resnet.0", "down.1.attention.0"):
        module = block_of(tiny_unet, place).to(torch.bfloat16).train()
        copy = make_copy(tiny_space.block(place), module)
        assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
        assert copy.training
        assert all(p.requires_grad and p.is_leaf for p in copy.parameters())
    assert torch.equal(torch.random.get_rng_state(), state), "copying draws nothing from the global generator"


def test_an_unknown_start_of_copies_is_refused(tiny_unet, tiny_space):
    with pytest.raises(ModelError, match="'zero'"):
        make_copy(tiny_space.blocks[0], block_of(tiny_unet, "down.0.resnet.0"), init="zero")
